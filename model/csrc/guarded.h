// Exceptions become messages: what every function of the C ABI is wrapped in.
#pragma once

#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

// Runs `body`; an exception becomes the message that is returned.
template <class Body> char* guarded(Body body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("an exception that is no std::exception");
  }
}
