/* probe LIBRARY: loads it, and prints its version. */
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW) : NULL;
    const char *(*version)(void) = NULL;
    if (library != NULL) {
        *(void **)&version = dlsym(library, "Pep788_Version");
    }
    if (version == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    puts(version());
    return 0;
}
