// See ../README.md. Nothing of this header is used.
#pragma once

#include <gloo/transport/unbound_buffer.h>
