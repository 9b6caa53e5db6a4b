# An overlay port: vcpkg install pep788 --overlay-ports=install/ports/vcpkg, from a clone. It needs cargo and make.
get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
find_program(MAKE NAMES gmake make REQUIRED)

# There is no debug form of the library: headers and settings are the same in both.
set(VCPKG_BUILD_TYPE release)
# The CMake package finds the library by its own place, lib/cmake/pep788.
set(VCPKG_POLICY_SKIP_MISPLACED_CMAKE_FILES_CHECK enabled)
set(VCPKG_POLICY_SKIP_LIB_CMAKE_MERGE_CHECK enabled)

vcpkg_execute_required_process(
    COMMAND "${MAKE}" -C "${SOURCE_PATH}" install "PREFIX=${CURRENT_PACKAGES_DIR}"
    WORKING_DIRECTORY "${CURRENT_BUILDTREES_DIR}"
    LOGNAME "install-${TARGET_TRIPLET}"
)
vcpkg_fixup_pkgconfig()
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE-MIT" "${SOURCE_PATH}/LICENSE-APACHE")
