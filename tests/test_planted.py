"""The planted defects still apply; that each is found is what planted.py looks at, on demand."""

import pytest

import planted

PATCHES = sorted(planted.PATCHES.glob("*.patch"))


@pytest.mark.parametrize("patch", PATCHES, ids=[patch.stem for patch in PATCHES])
def test_patch_applies(patch):
    texts = planted.patched(patch)
    assert texts
    for name, text in texts.items():
        assert text != (planted.ROOT / name).read_text()


def test_patch_that_does_not_apply_is_refused(tmp_path):
    patch = tmp_path / "old.patch"
    patch.write_text("What was meant.\n\n--- a/cpp/ring.cpp\n+++ b/cpp/ring.cpp\n@@ -1 +1 @@\n-no such line\n+another\n")
    with pytest.raises(ValueError, match="old.patch: in cpp/ring.cpp there are 0 places"):
        planted.patched(patch)
