"""Registered kinds: the words a recipe may use, each a typed set of options.

A kind is a pydantic model with a literal `kind` field. Its class says what it
builds (`builds = "package.module:name"`), so that a recipe is checked without
importing what it builds; torch is imported at `build()`.

    class Digits(DataKind):
        '''scikit-learn's 1,797 images of handwritten digits, 8 x 8.'''
        kind: Literal["digits"] = "digits"
        builds = "stillhouse.sources.digits:digits"
        test_fraction: float = 0.25

A plug-in registers kinds by defining such classes in a module named by an
entry point of the group `stillhouse.kinds`, or in a file named on the command
line with `--plugin FILE`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import zlib
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from stillhouse.errors import StillhouseError, nearest

PLUGIN = "stillhouse_plugin_"
"""How the modules of plug-in files are called, before the name of the file."""


class Strict(BaseModel):
    """A frozen set of options: an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        defer_build=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Kind(Strict):
    """Base of every registered kind. A direct subclass opens a family."""

    family: ClassVar[str] = ""
    tag: ClassVar[str] = "kind"
    builds: ClassVar[str] = ""
    needs: ClassVar[str] = ""
    """The extra that brings what this kind imports, such as "language"."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        field = cls.model_fields.get(cls.tag)
        names = get_args(field.annotation) if field else ()
        if not names:
            return
        (name,) = names
        family = _FAMILIES.setdefault(cls.family, {})
        known = family.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise StillhouseError(
                f"two kinds of {cls.family} are named {name!r}: {known.__module__}.{known.__qualname__} "
                f"and {cls.__module__}.{cls.__qualname__}; rename one of them"
            )
        family[name] = cls

    @property
    def word(self) -> str:
        """The word that names this kind in a recipe."""
        return getattr(self, self.tag)

    @classmethod
    def target(cls) -> Any:
        """The object `builds` names, imported now."""
        module, _, attribute = cls.builds.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if not cls.needs or (error.name or "").startswith("stillhouse"):
                raise
            raise StillhouseError(
                f"{cls.family} {cls.__name__} needs the package {error.name!r}, which is not installed: "
                f"pip install 'stillhouse[{cls.needs}]'"
            ) from error

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """Call what this kind builds, with itself as the first argument."""
        return self.target()(self, *args, **kwargs)


_FAMILIES: dict[str, dict[str, type[Kind]]] = {}


def kinds(family: str) -> dict[str, type[Kind]]:
    """The registered kinds of a family, by name."""
    return dict(sorted(_FAMILIES.get(family, {}).items()))


class AnyKind:
    """Marks a field that takes any registered kind of a family: `Annotated[DataKind, AnyKind("data")]`.

    pydantic sees a discriminated union over what is registered when the schema is first used.
    A plain word stands for a kind whose other options are left out: `data: digits`.
    """

    def __init__(self, family: str, tag: str = "kind") -> None:
        self.family, self.tag = family, tag

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # The outer union keeps what is not a word as it came: strict validation of JSON takes a list for
        # a tuple only where no function stands between the text and the field.
        choices = {name: handler.generate_schema(cls) for name, cls in kinds(self.family).items()}
        options = core_schema.tagged_union_schema(choices, discriminator=self.tag)
        word = core_schema.no_info_before_validator_function(self._spell_out, options)
        return core_schema.tagged_union_schema({"word": word, "options": options}, discriminator=self._form)

    def _spell_out(self, word: str) -> dict[str, str]:
        return {self.tag: word}

    @staticmethod
    def _form(value: Any) -> str:
        return "word" if isinstance(value, str) else "options"


def load_plugin(path: str | Path) -> None:
    """Register the kinds that a Python file defines. The file runs: only the user may name it."""
    path = Path(path).resolve()
    if not path.is_file():
        raise StillhouseError(f"no plug-in file at {path}")
    name = f"{PLUGIN}{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise StillhouseError(f"{path} is not a Python file; a plug-in is one")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise StillhouseError(f"the plug-in {path} failed: {type(error).__name__}: {error}") from error
    _rebuild(Strict)


def _rebuild(base: type[BaseModel]) -> None:
    """Have pydantic see the kinds registered since it first built its schemas."""
    models = [base]
    for model in models:
        models += [cls for cls in model.__subclasses__() if cls not in models]
    for attribute in ("__pydantic_core_schema__", "__pydantic_validator__", "__pydantic_serializer__"):
        for model in models:
            if attribute in vars(model):
                delattr(model, attribute)
    for model in models:
        model.model_rebuild(force=True)


@cache
def load_entry_points() -> None:
    """Register the kinds of installed plug-ins (entry points of the group `stillhouse.kinds`)."""
    points = importlib.metadata.entry_points(group="stillhouse.kinds")
    for point in points:
        point.load()
    if points:
        _rebuild(Strict)


def lookup(family: str, name: str) -> type[Kind]:
    """The kind of that name, or an error with the nearest one."""
    found = kinds(family)
    if name not in found:
        raise StillhouseError(f"no {family} is named {name!r}; {nearest(name, found)}")
    return found[name]
