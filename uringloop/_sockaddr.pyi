# The compiled module has nothing for Python.

# What Cython puts there.
__test__: dict[str, str]
__pyx_capi__: dict[str, object]
