include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(ssm_cmake_dir ${CMAKE_INSTALL_LIBDIR}/cmake/ssm)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/ssm DESTINATION include FILES_MATCHING PATTERN "*.hpp")

# One export set per component, so that a component's dependencies are looked for only when it is
# asked for.
install(TARGETS ssm EXPORT ssmTargets)
install(EXPORT ssmTargets NAMESPACE ssm:: DESTINATION ${ssm_cmake_dir})
install(TARGETS ssm_io EXPORT ssmIoTargets)
install(EXPORT ssmIoTargets NAMESPACE ssm:: DESTINATION ${ssm_cmake_dir})

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/ssmConfig.cmake.in
                              ${PROJECT_BINARY_DIR}/ssmConfig.cmake INSTALL_DESTINATION ${ssm_cmake_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/ssmConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/ssmConfig.cmake ${PROJECT_BINARY_DIR}/ssmConfigVersion.cmake
        DESTINATION ${ssm_cmake_dir})

foreach(name IN ITEMS ssm ssm-io)
  configure_file(${PROJECT_SOURCE_DIR}/cmake/${name}.pc.in ${PROJECT_BINARY_DIR}/${name}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${name}.pc DESTINATION share/pkgconfig)
endforeach()
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
