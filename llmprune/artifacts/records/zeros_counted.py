"""What is zero in a checkpoint's weights: counts, as artifacts keep them."""

from __future__ import annotations

from llmprune.artifacts.records.provenance import Record


class TensorSparsity(Record):
    """One stored tensor.

    Attributes:
        name: in the checkpoint.
        shape: as stored.
        parameters: its elements.
        zeros: elements that are zero, of either sign.
        zero_rows: of a matrix (out, in): outputs whose weights are all zero; 0 for a vector.
        zero_columns: inputs whose weights are all zero; 0 for a vector.
        groups: groups of inputs that an N:M pattern was looked for in; 0 without such a pattern.
        violations: groups with fewer zeros than the pattern says.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    zeros: int
    zero_rows: int = 0
    zero_columns: int = 0
    groups: int = 0
    violations: int = 0

    @property
    def ratio(self) -> float:
        """The share of elements that are zero; 0 for an empty tensor."""
        return self.zeros / self.parameters if self.parameters else 0.0


class SparsityReport(Record):
    """What was counted in some or all tensors of a checkpoint.

    Attributes:
        pattern: the N:M pattern that was looked for (N zeros in every M inputs), such as ``2:4``; None: none was.
        tensors: in the order of their bytes.
    """

    pattern: str | None = None
    tensors: tuple[TensorSparsity, ...]

    @property
    def parameters(self) -> int:
        """Elements of all tensors."""
        return sum(tensor.parameters for tensor in self.tensors)

    @property
    def zeros(self) -> int:
        """Elements that are zero."""
        return sum(tensor.zeros for tensor in self.tensors)

    @property
    def effective_parameters(self) -> int:
        """Elements that are not zero."""
        return self.parameters - self.zeros

    @property
    def ratio(self) -> float:
        """The share of elements that are zero; 0 where there are none."""
        return self.zeros / self.parameters if self.parameters else 0.0

    @property
    def zero_rows(self) -> int:
        """Outputs, over all matrices, whose weights are all zero."""
        return sum(tensor.zero_rows for tensor in self.tensors)

    @property
    def zero_columns(self) -> int:
        """Inputs, over all matrices, whose weights are all zero."""
        return sum(tensor.zero_columns for tensor in self.tensors)

    @property
    def groups(self) -> int:
        """Groups of inputs that were looked at for the pattern."""
        return sum(tensor.groups for tensor in self.tensors)

    @property
    def violations(self) -> int:
        """Groups with fewer zeros than the pattern says."""
        return sum(tensor.violations for tensor in self.tensors)
