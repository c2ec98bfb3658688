// The header a kernel includes. With CANN it is the vendor's; with this folder on the include path it is this one, and
// the kernel becomes host code that runs under the emulator. Written from the public documentation of the API.
#pragma once

#include "cube.h"
#include "cube_dav3510.h"
#include "cube_transpose.h"
#include "data_copy.h"
#include "sort.h"
#include "sync.h"
#include "tensor.h"
#include "tpipe.h"
#include "types.h"
#include "vector.h"
#include "vector_cast.h"
#include "vector_reduce.h"
#if __NPU_ARCH__ == 3510
#include "reg_cast.h"
#include "reg_compute.h"
#include "reg_copy.h"
#include "reg_pack.h"
#endif
