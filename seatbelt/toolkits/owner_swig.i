// Threads that are owned, by SWIG's directors: a C++ class that Python derives from, whose threads call the Python method.
%module(directors="1", threads="1") owner_swig

%{
#include "owner.h"

struct Call {
    virtual ~Call() = default;
    virtual void call() = 0;
};

class Threads {
public:
    Threads(Call *call, int threads)
    {
        owner_.start([call] { call->call(); }, threads);
    }

private:
    Owner owner_;
};

// Destroyed after Python's end, unless it was stopped before.
static Owner owner;

static void start_threads(Call *call, int threads)
{
    owner.start([call] { call->call(); }, threads);
}

static void stop()
{
    owner.stop();
}

static void sleep_for_a_moment() noexcept
{
    usleep(20);
}
%}

%feature("director") Call;

struct Call {
    virtual ~Call();
    virtual void call() = 0;
};

// With `threads`, SWIG gives up the GIL around each call, the destructor's too.
class Threads {
public:
    Threads(Call *call, int threads);
};

void start_threads(Call *call, int threads);
void stop();
void sleep_for_a_moment() noexcept;

%pythoncode %{
class Calling(Call):
    def __init__(self, function):
        super().__init__()
        self.call = function


def calling(function):
    # Never given back: its threads may have the last reference.
    return Calling(function).__disown__()


class Owner(Threads):
    def __init__(self, function, count):
        super().__init__(calling(function), count)


def start(function, count):
    start_threads(calling(function), count)


def detach_for_ever():
    while True:
        sleep_for_a_moment()
%}
