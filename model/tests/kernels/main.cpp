// Runs every kernel test. The seed of lengths and values is the first argument.
#include "attention.cpp"
#include "elementwise.cpp"

int main(int argc, char** argv) {
  if (argc > 1) check::random.seed((unsigned)strtoul(argv[1], nullptr, 10));
  test_elementwise();
  test_attention();
  return check::failed ? 1 : 0;
}
