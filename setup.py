"""The one part that is not Python: optional, built where a C compiler, Python's headers and libcrypto's are.

Everything else stands in pyproject.toml.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "quicfs.transport._protection",
            ["transport/_protection.c"],
            depends=["transport/_packet.h"],
            libraries=["crypto"],
            extra_compile_args=["-O2", "-Wall", "-Wextra", "-Wno-missing-field-initializers"],
            optional=True,
        )
    ]
)
