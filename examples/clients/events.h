/* A library that calls back from threads of its own, and knows nothing of Python: the kind that the
 * other examples bind. It is written in C++ (events.cpp), and promises noexcept to itself.
 *
 * It also keeps count, for examples/clients/run: when the process is over it appends a line,
 * "STARTED LOST", to the file that EVENTS_LOG names. Lost is a call that has not come back by then.
 */
#ifndef EVENTS_H
#define EVENTS_H

#ifdef __cplusplus
extern "C" {
#endif

/* Starts four threads, which call `callback(arg)` again and again until the process is over. */
void events_start(void (*callback)(void *arg), void *arg);

#ifdef __cplusplus
}
#endif

#endif
