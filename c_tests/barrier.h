/* A barrier for threads, where the C library has none. */

#ifndef BARRIER_H
#define BARRIER_H

#ifdef __APPLE__

#include <pthread.h>
#include <stddef.h>

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t all_came;
    unsigned wanted, came, turn;
} pthread_barrier_t;

static inline int pthread_barrier_init(pthread_barrier_t *barrier, const void *unused, unsigned wanted)
{
    (void)unused;
    barrier->wanted = wanted;
    barrier->came = barrier->turn = 0;
    pthread_cond_init(&barrier->all_came, NULL);
    return pthread_mutex_init(&barrier->lock, NULL);
}

static inline int pthread_barrier_wait(pthread_barrier_t *barrier)
{
    pthread_mutex_lock(&barrier->lock);
    unsigned turn = barrier->turn;
    if (++barrier->came == barrier->wanted) {
        barrier->came = 0;
        barrier->turn++;
        pthread_cond_broadcast(&barrier->all_came);
    }
    while (barrier->turn == turn) {
        pthread_cond_wait(&barrier->all_came, &barrier->lock);
    }
    pthread_mutex_unlock(&barrier->lock);
    return 0;
}

#endif
#endif
