"""The platform of several wheels together."""

import pytest
from packaging.tags import Tag, parse_tag

from plugin_manager.errors import InvalidInputError
from plugin_manager.publishing._platforms import conjunction


def together(*tags: str) -> str:
    return conjunction([(f"wheel-{tag}", parse_tag(tag)) for tag in tags])


@pytest.mark.parametrize(
    ("tags", "platform"),
    [
        (["py3-none-any"], "any"),
        (["py2.py3-none-any", "py3-none-any"], "any"),
        ([], "any"),
        (["py311-none-any", "py3-none-any"], "py311-none-any"),
        (["cp311-cp311-manylinux_2_17_x86_64"], "cp311-cp311-manylinux_2_17_x86_64"),
        # an old name and a new one for the same platform
        (
            ["cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64"],
            "cp311-cp311-manylinux_2_17_x86_64",
        ),
        # of alternatives, the one that asks for less
        (
            ["cp311-cp311-manylinux_2_5_x86_64.manylinux1_x86_64.manylinux_2_28_x86_64"],
            "cp311-cp311-manylinux_2_5_x86_64",
        ),
        # the newer of two manylinux, a full ABI over the stable one over none
        (
            [
                "py3-none-any",
                "cp38-abi3-manylinux_2_28_x86_64",
                "cp311-cp311-manylinux2014_x86_64",
                "py3-none-manylinux_2_5_x86_64",
            ],
            "cp311-cp311-manylinux_2_28_x86_64",
        ),
        (
            ["cp38-abi3-linux_x86_64", "cp39-abi3-manylinux_2_17_x86_64"],
            "cp39-abi3-manylinux_2_17_x86_64",
        ),
        (["cp38-abi3-win_amd64", "py312-none-any"], "cp312-abi3-win_amd64"),
        (["cp311-none-any", "cp311-cp311-win_amd64"], "cp311-cp311-win_amd64"),
        (["py2.py3-none-win32.win_amd64"], "py3-none-win32.win_amd64"),
        (
            ["cp311-cp311-macosx_11_0_arm64", "cp311-cp311-macosx_10_9_universal2"],
            "cp311-cp311-macosx_11_0_arm64",
        ),
    ],
)
def test_the_platform_is_where_all_wheels_run(tags: list[str], platform: str) -> None:
    assert together(*tags) == platform
    assert together(*reversed(tags)) == platform


@pytest.mark.parametrize(
    "tags",
    [
        ["cp311-cp311-win_amd64", "cp312-cp312-win_amd64"],
        ["cp311-cp311-win_amd64", "py3-none-manylinux_2_17_x86_64"],
        ["cp311-cp311-manylinux_2_17_x86_64", "cp311-cp311-manylinux_2_17_aarch64"],
        ["cp311-cp311-manylinux_2_17_x86_64", "cp311-cp311-musllinux_1_1_x86_64"],
        ["cp312-abi3-win_amd64", "cp311-cp311-win_amd64"],
        ["cp38-abi3-win_amd64", "cp313-cp313t-win_amd64"],
        ["cp38-abi3-win_amd64", "pp310-pypy310_pp73-win_amd64"],
        ["cp311-cp311-win_amd64", "cp311-cp311d-win_amd64"],
    ],
)
def test_wheels_that_run_nowhere_together_are_refused_by_name(tags: list[str]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        together(*tags)
    assert all(f"wheel-{tag}" in caught.value.message for tag in tags)


def test_a_wheel_for_python_2_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="wheel-py2-none-any is made for py2-none-any"):
        together("py2-none-any")


def test_tags_that_are_no_product_are_not_written_as_one() -> None:
    tags = [Tag("cp311", "cp311", "win32"), Tag("cp312", "cp312", "win_amd64")]
    with pytest.raises(InvalidInputError, match="cannot be written as one platform"):
        conjunction([("odd", tags)])
