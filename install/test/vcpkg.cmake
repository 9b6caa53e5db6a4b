# Runs the port as vcpkg does, with the functions of vcpkg that it calls: cmake -DPORT=... -DCURRENT_PACKAGES_DIR=... -P vcpkg.cmake
set(TARGET_TRIPLET x64-linux)
set(CURRENT_BUILDTREES_DIR "${CURRENT_PACKAGES_DIR}")

function(vcpkg_execute_required_process)
    cmake_parse_arguments(PARSE_ARGV 0 arg "" "WORKING_DIRECTORY;LOGNAME" "COMMAND")
    execute_process(COMMAND ${arg_COMMAND} WORKING_DIRECTORY "${arg_WORKING_DIRECTORY}" COMMAND_ERROR_IS_FATAL ANY)
endfunction()

function(vcpkg_fixup_pkgconfig)
endfunction()

function(vcpkg_install_copyright)
    cmake_parse_arguments(PARSE_ARGV 0 arg "" "" "FILE_LIST")
    foreach(file ${arg_FILE_LIST})
        file(READ "${file}" text)
        file(APPEND "${CURRENT_PACKAGES_DIR}/share/pep788/copyright" "${text}")
    endforeach()
endfunction()

# A file that is included has its own folder as the current one, as a port has.
include("${PORT}/portfile.cmake")
