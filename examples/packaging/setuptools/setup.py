import pep788
from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "example",
            ["example.c"],
            extra_compile_args=pep788.get_compile_args(),
            extra_link_args=pep788.get_link_args(static=True),
        )
    ]
)
