"""What every artifact says about itself: its kind and schema, and the fingerprints of what it was made from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmprune.artifacts.checkpoints.block_numbers import MAX_BLOCKS
from llmprune.artifacts.files.atomic import write_json_atomic
from llmprune.artifacts.files.digests import FileDigest
from llmprune.artifacts.files.reading import parse_json, raise_if_of_the_machine, read_small
from llmprune.artifacts.records.content import take_digest, with_digest
from llmprune.artifacts.records.unchecked import remark_unchecked
from llmprune.choices import TextKind
from llmprune.errors import ArtifactError, OutputExistsError
from llmprune.version import __version__

_OTHER_PLACE = "move it away, or type `run=OTHER`."
Count = Annotated[int, Field(ge=0, lt=2**63)]
"""How many there are of something: a number that neither a disk nor a loop takes for endless work."""
Blocks = Annotated[int, Field(ge=1, le=MAX_BLOCKS)]
"""How many blocks, or experts, there are."""
BlockNumber = Annotated[int, Field(ge=0, lt=MAX_BLOCKS)]
"""The index of a block, or of an expert."""


class Record(BaseModel):
    """A frozen piece of an artifact; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


StateRecord = TypeVar("StateRecord", bound=Record)


class FileRecord(Record):
    """A file, with what must be read back from it.

    Attributes:
        bytes: its size.
        sha256: of its content.
    """

    bytes: int
    sha256: str

    @classmethod
    def of(cls, digest: FileDigest) -> Self:
        """What is kept of a file that was just written."""
        return cls(bytes=digest.nbytes, sha256=digest.sha256)

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """What is kept of a finished file."""
        return cls.of(FileDigest.of_file(path))

    def is_at(self, path: Path) -> bool:
        """Whether a file is there, and is what it was when it was finished."""
        return path.is_file() and path.stat().st_size == self.bytes and FileDigest.of_file(path) == self.digest

    @property
    def digest(self) -> FileDigest:
        """What the file must hold."""
        return FileDigest(self.bytes, self.sha256)


class Versions(Record):
    """The software that made an artifact.

    Attributes:
        llmprune: its version.
        torch: its version, with the build (``+cpu``).
        transformers: its version.
    """

    llmprune: str = __version__
    torch: str = Field(default_factory=lambda: version("torch"))
    transformers: str = Field(default_factory=lambda: version("transformers"))


class ModelIdentity(Record):
    """Which model an artifact was made from.

    Attributes:
        name: what a person would call it: the Hub id, or the directory's name.
        fingerprint: SHA-256 over its config and weights (``models.source``); of a Hub model whose unneeded shards
            were not downloaded, over the others.
        model_type: the config's ``model_type``.
        num_blocks: transformer blocks.
        num_parameters: weights stored, tied ones once.
    """

    name: str
    fingerprint: str
    model_type: str
    num_blocks: Blocks
    num_parameters: Count

    @property
    def own_name(self) -> str:
        """The name without owner, revision and ``.gguf``: what the names of results begin with."""
        return self.name.split("@")[0].rsplit("/", 1)[-1].removesuffix(".gguf")


class WeightsIdentity(Record):
    """Which config and weights were measured, to the bit.

    Attributes:
        fingerprint: SHA-256 over config and weights, of which large tensors are sampled, as in ``ModelIdentity``.
        sha256: SHA-256 over those of the files of weights, in the order of their names.
    """

    fingerprint: str
    sha256: str

    @classmethod
    def of(cls, fingerprint: str, files: Mapping[str, FileDigest]) -> Self:
        """Of weights in files that were read, by name."""
        together = "".join(files[name].sha256 for name in sorted(files))
        return cls(fingerprint=fingerprint, sha256=hashlib.sha256(together.encode()).hexdigest())


class SourceIdentity(Record):
    """One source of a mixture of texts.

    Attributes:
        name: what was typed, less the folders of a local file.
        kind: ``text``, or ``chat``: conversations as a chat template writes them.
        windows: how many windows were drawn from it.
        origin: where the text really comes from, with the revision or the version.
        fingerprint: SHA-256 of its rows.
    """

    name: str
    kind: TextKind
    windows: Count
    origin: str
    fingerprint: str


class CorpusIdentity(Record):
    """Which text an artifact was made from.

    Attributes:
        name: what was typed, less the folders of a local file.
        origin: where the text really comes from, with the revision or the version.
        fingerprint: SHA-256 of its rows; of a mixture, of the sources' fingerprints and counts.
        note: what had to be told about it, if anything.
        kind: what the text is made of: ``text``, ``chat`` (conversations as a chat template writes them), ``self`` (the
            model wrote it), ``tokens`` (given as they are), ``mixture`` (of several kinds). In files from before it was
            kept, the name tells.
        sources: of a mixture.
    """

    name: str
    origin: str
    fingerprint: str
    note: str | None = None
    kind: TextKind = Field(default_factory=lambda known: kind_by_name(known["name"]))
    sources: tuple[SourceIdentity, ...] = ()

    @property
    def described(self) -> str:
        """The name, and what the text is made of where the name does not tell."""
        return describe_text(self.name, self.kind, self.sources)


def kind_by_name(corpus: str) -> TextKind:
    """What a text is made of, in files from before that was kept."""
    return {str(kind): kind for kind in (TextKind.SELF, TextKind.TOKENS)}.get(corpus, TextKind.TEXT)


def describe_text(name: str, kind: TextKind, sources: Sequence[SourceIdentity]) -> str:
    """The name of a text, and what it is made of where the name does not tell."""
    if kind is TextKind.CHAT:
        return f"{name} (conversations, by the model's chat template)"
    if kind is TextKind.MIXTURE:
        return f"{name} ({', '.join(f'{one.name}: {one.kind}' for one in sources)})"
    return name


class Artifact(Record):
    """A JSON file with a kind, a schema version, provenance and a digest of all that.

    Subclasses set ``KIND`` and ``SCHEMA``. A file of a newer schema is refused; the
    schema number changes whenever an older reader would misread the file. Files from ``OLDEST`` on are read as what
    they would be today: fields that came later have their defaults.
    Files of earlier versions have no digest: they are read, with an ``UncheckedWarning``.
    """

    KIND: ClassVar[str]
    SCHEMA: ClassVar[int] = 1
    OLDEST: ClassVar[int | None] = None

    kind: str
    schema_version: int
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: Versions = Field(default_factory=Versions)

    def write(self, path: Path) -> None:
        """Write as JSON, to a temporary name first.

        Raises:
            OutputExistsError: another file, or a link, is in its place.
        """
        self.require_place(path)
        write_json_atomic(path, with_digest(self.model_dump(mode="json")))

    @staticmethod
    def require_place(path: Path) -> None:
        """See, before what takes long, that an artifact may be written: in place of an older one, or new.

        Raises:
            OutputExistsError: another file, or a link, is there.
        """
        if path.is_symlink():
            raise OutputExistsError(f"{path} is a link, and llmprune replaces nothing through links; {_OTHER_PLACE}")
        if path.exists() and recorded_as(path) is None:
            raise OutputExistsError(f"{path} was not written by llmprune, or is damaged; {_OTHER_PLACE}")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check an artifact.

        Raises:
            ArtifactError: missing, broken JSON, another kind, a newer schema, a digest that does not fit, or fields
                that do not.
        """
        content = _read_json(path)
        kind = content.get("kind") if isinstance(content, dict) else None
        if not isinstance(content, dict) or kind != cls.KIND:
            raise ArtifactError(
                f"{path} is of kind {kind!r:.60}, but a file of kind '{cls.KIND}' was expected there; move it away."
            )
        if content.get("schema_version") not in range(cls.OLDEST or cls.SCHEMA, cls.SCHEMA + 1):
            raise ArtifactError(
                f"{path} has schema {content.get('schema_version')!r:.40}, but this llmprune ({__version__}) reads "
                f"schema {cls.SCHEMA}; use the version that wrote it, or delete the file to make it anew."
            )
        if not take_digest(content, path):
            remark_unchecked(path)
        try:
            return cls.model_validate({**content, "schema_version": cls.SCHEMA})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ArtifactError(
                f"{path} is damaged at '{where}': {first['msg']}; delete it to make it anew."
            ) from error


def recorded_as(path: Path, kind: str | None = None) -> dict[str, Any] | None:
    """The fields of a record of some kind, of whatever schema, or of any; None where no such record lies there."""
    try:
        content = parse_json(read_small(path))
    except (OSError, ValueError) as error:
        raise_if_of_the_machine(error)
        return None
    known = content.get("kind") if isinstance(content, dict) else None
    return content if isinstance(known, str) and (known == kind if kind else known.startswith("llmprune-")) else None


def write_state(path: Path, state: Record) -> None:
    """Write the state of a pass as JSON with a digest, to a temporary name first."""
    write_json_atomic(path, with_digest(state.model_dump(mode="json")))


def read_state(path: Path, kind: type[StateRecord]) -> StateRecord | None:
    """The state of a pass that was stopped; None where there is none, or none that can be gone on with."""
    try:
        content = parse_json(read_small(path))
        if not isinstance(content, dict):
            return None
        if not take_digest(content, path):
            remark_unchecked(path)
        return kind.model_validate(content)
    except (OSError, ValueError, ArtifactError) as error:
        raise_if_of_the_machine(error)
        return None


def _read_json(path: Path) -> object:
    try:
        return parse_json(read_small(path))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; run the command that writes it again, with `force=True`.") from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ArtifactError(f"{path} is not valid JSON ({error}); delete it to make it anew.") from error
