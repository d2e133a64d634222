"""nest_asyncio2, which goes on with nest_asyncio on newer Pythons.
"""

import nest_asyncio2

from ecosystem.programs import nest_asyncio

PACKAGES = ["nest_asyncio2>=1.7"]


def main():
    nest_asyncio.use(nest_asyncio2.apply)
