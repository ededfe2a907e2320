"""Problems, variants and loop references of the package, under the name by which tests know them."""

from wholegrain.verify.cases import KINDS, ROLES, Batch, make_batch
from wholegrain.verify.references import cos, entropy, lse, reference
from wholegrain.verify.variants import CASES

__all__ = ["CASES", "KINDS", "ROLES", "Batch", "cos", "entropy", "lse", "make_batch", "reference"]
