#include "events.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace {

constexpr int THREADS = 4;
std::atomic<bool> over{false};
std::atomic<long> started{0}, returned{0}, running{0};

// Where CPython ends a thread by unwinding its stack, `noexcept` ends the process.
void deliver(void (*callback)(void *), void *arg) noexcept
{
    ++started;
    callback(arg);
    ++returned;
}

void run(void (*callback)(void *), void *arg)
{
    for (int pause = 0; !over; pause = (pause + 377) % 2000) {
        deliver(callback, arg);
        std::this_thread::sleep_for(std::chrono::microseconds(pause));
    }
    --running;
}

// At the end of the process, long after Python's: gives calls time to come back.
void report()
{
    const char *patience = std::getenv("EVENTS_PATIENCE_MS");
    const char *log = std::getenv("EVENTS_LOG");
    over = true;
    for (int left = patience ? std::atoi(patience) : 100; running > 0 && left > 0; --left) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (std::FILE *file = log ? std::fopen(log, "a") : nullptr) {
        std::fprintf(file, "%ld %ld\n", started.load(), started - returned);
        std::fclose(file);
    }
}

} // namespace

void events_start(void (*callback)(void *), void *arg)
{
    if (running.exchange(THREADS) == 0) {
        std::atexit(report);
    }
    for (int i = 0; i < THREADS; ++i) {
        std::thread(run, callback, arg).detach();
    }
}
