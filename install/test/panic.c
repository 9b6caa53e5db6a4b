/* A copy of the library that is out of memory where it cannot be: it says so, and the process ends. Linked with --wrap=malloc. */
#include <stdio.h>
#include <stdlib.h>

#include "pep788_doctor.h"

static int fails;

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);

void *__wrap_malloc(size_t size)
{
    return fails ? NULL : __real_malloc(size);
}

int main(void)
{
    char text[64];
    if (Pep788_Doctor(text, sizeof text) == 0)
        return 1;
    puts("served");
    fflush(stdout);
    fails = 1;
    Pep788_Doctor(text, sizeof text);
    return 1;
}
