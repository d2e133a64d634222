# Types of the compiled module: nothing of it is public.

# What Cython puts there.
__test__: dict[str, str]
__pyx_capi__: dict[str, object]
