// What many a C++ library has between its thread and the callback: a function that promises not to
// throw. Where CPython ends a late thread by unwinding its stack, that breaks the promise.
extern "C" void noexcept_frame(void (*function)(void *), void *arg) noexcept { function(arg); }
