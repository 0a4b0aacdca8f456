"""The public face: these names, no others; a change here is a change for every user."""

import ast
from pathlib import Path

import pytest

import chunkstore as cs

PUBLIC = """
    Array Bytes Image Ragged Schema Text
    RaggedBatch Statistics
    create append fragment commit add_fields compact FragmentWriter FragmentResult open Writer Dataset FieldView
    versions VersionInfo info DatasetInfo FieldInfo gc GcReport tag rollback diff VersionDiff StatisticsChange verify
    Loader torch
    ChunkstoreError CommitConflict CorruptChunk CorruptSample DatasetExists DatasetNotFound ForkedLoader InvalidDataset
    MissingObject ObjectChanged ReadOnlyStore SampleError SchemaError StateMismatch StoreError UnsupportedFormat
    VersionExpired
""".split()


def test_public_names_are_these():
    assert sorted(cs.__all__) == sorted(PUBLIC)
    assert len(set(PUBLIC)) == len(PUBLIC)
    assert set(dir(cs)) >= set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_there_and_documented(name):
    value = getattr(cs, name)
    assert value.__doc__
    assert value is getattr(cs, name)


def test_every_error_is_public_and_in_the_tree_of_the_docstring():
    errors = {
        name for name, value in vars(cs.errors).items() if isinstance(value, type) and issubclass(value, Exception)
    }
    assert errors <= set(PUBLIC)
    assert all(name in cs.errors.__doc__ for name in errors)


def test_type_checkers_see_the_names_that_run_time_gives():
    """mypy and editors read the imports under TYPE_CHECKING; they must name what `__getattr__` finds."""
    tree = ast.parse(Path(cs.__file__).read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        (statement.module.removeprefix("chunkstore."), alias.asname)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert {name for _, name in imported} == set(PUBLIC)
    for home, name in imported:
        if name != "torch":
            assert cs._HOME_OF[name] == home


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Dataloader'"):
        cs.Dataloader  # noqa: B018
