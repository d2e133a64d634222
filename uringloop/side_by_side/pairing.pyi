# The cached functions of the module have no signature for a type checker; here they have.
from dataclasses import dataclass, field

from . import pyx_scanner

C_NOTE: str

class NameNotFound(LookupError): ...

@dataclass(frozen=True)
class Source:
    label: str
    module: pyx_scanner.Module

@dataclass
class Entry:
    stdlib: str | None
    ours: str | None
    left: pyx_scanner.Item | None = None
    left_source: Source | None = None
    right: pyx_scanner.Item | None = None
    right_source: Source | None = None
    left_note: str = ""
    right_note: str = ""
    members: list[Entry] = field(default_factory=list)
    def numbers(self, with_members: bool = True) -> list[str]: ...
    def changed(self) -> list[tuple[str, str, str]]: ...

def stdlib_source(name: str) -> Source: ...
def our_source(name: str) -> Source: ...
def entries() -> list[tuple[str, list[Entry]]]: ...
def locate(name: str) -> tuple[pyx_scanner.Item, Source] | tuple[None, None]: ...
def every_entry() -> list[Entry]: ...
def find(name: str) -> Entry: ...
