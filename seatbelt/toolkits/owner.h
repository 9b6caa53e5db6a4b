// What the modules in this folder have in common: threads that call back, in a loop, and are joined by who owns them.
#pragma once

#include <unistd.h>

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

class Owner {
public:
    ~Owner() { stop(); }

    void start(std::function<void()> call, int threads)
    {
        while (threads-- > 0) {
            threads_.emplace_back([this, call]() noexcept {
                while (!stops_) {
                    call();
                }
            });
        }
    }

    // Not with the GIL, which the threads may wait for.
    void stop()
    {
        stops_ = true;
        for (std::thread &thread : threads_) {
            thread.join();
        }
        threads_.clear();
    }

private:
    std::atomic<bool> stops_{false};
    std::vector<std::thread> threads_;
};
