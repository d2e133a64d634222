# Types of the compiled module: nothing of it is public.
from typing_extensions import disjoint_base

@disjoint_base
class AddressBook: ...

# What Cython puts there.
__test__: dict[str, str]
__pyx_capi__: dict[str, object]
