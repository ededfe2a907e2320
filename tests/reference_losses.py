"""Problems, variants and loop references of the package, under the name by which tests know them."""

from wholegrain.app.verify.cases import KINDS, ROLES, Batch, make_batch
from wholegrain.app.verify.references import cos, entropy, lse, reference
from wholegrain.app.verify.variants import CASES

__all__ = ["CASES", "KINDS", "ROLES", "Batch", "cos", "entropy", "lse", "make_batch", "reference"]
