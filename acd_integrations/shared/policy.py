"""What the operator of an adapter object holds its calls to: a policy that is fixed when the object is made, and the
namespace in which keys and values are found again. The same for both adapters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import BeforeValidator

from acd_core.errors import PolicyError, UsageError
from acd_core.params import shown
from acd_core.reply.policy import Policy
from acd_core.spec import LMSpec, expert_key, pair_key
from acd_integrations.shared.holder import Holder

if TYPE_CHECKING:
    from acd_core.lm import ContrastiveLM

PolicyField = Annotated[Union[Policy, None], BeforeValidator(lambda given: None if given is None else Policy.of(given))]
"""A policy, its fields as a dict, or None; an impossible one is a UsageError."""


def fixed_policy(policy: Policy | None, own: Mapping[str, Any], spec: LMSpec) -> Policy:
    """Fill in what the object is made with: what the policy locks is locked for every copy. own: settings."""
    given = Policy.of(policy)
    return given.serving({**own, "made_of": _made_of(given, spec)})


def call_limits(
    policy: Policy | None, spec: LMSpec, name: str, holder: Holder, own: str | None, given: Any
) -> dict[str, Any]:
    """The policy and the namespace of one call, as `ContrastiveLM` takes them. own: the object's namespace; without one
    it is that of its copies. given: the one within it that the call names.

    Raises PolicyError for a copy that was changed in what the policy of the first one holds fast. name: its class.
    """
    fast = Policy.of(policy)
    if (fast.served or {}).get("made_of") != _made_of(fast, spec):
        raise PolicyError(
            f"The operator's policy holds for the model, pair, expert, method and gate_floor that this {name} was made "
            "with, and one of them is another since.",
            hint=f"Leave it as it was, or make another: {name}(..., policy=Policy(...)).",
        )
    if given is not None and not isinstance(given, str):
        raise UsageError(f"namespace is {shown(given)}.", hint="Give a text, a tenant's id say.")
    # Told apart by no sign that people write: "a/b" with "c" is not "a" with "b/c".
    whole = own or holder.namespace
    return {"policy": fast, "namespace": f"{whole}\0{given}" if given else whole}


def settings_from(lm: ContrastiveLM, settings: dict[str, Any]) -> dict[str, Any]:
    """What an adapter over `lm` takes from it, as settings. Takes the policy out of `settings`; what that leaves open
    `lm`'s says."""
    rules: dict[str, Any] = {"gate_floor": lm.gate_rules.floor, "generation_defaults": lm.generation_defaults}
    rules["deterministic"] = lm.deterministic
    if "policy" in settings or lm.policy != Policy():
        own = Policy.of(settings.pop("policy", None))
        left_open = [name for name in ("begun_replies", "raw_text") if getattr(own, name) is None]
        rules["policy"] = own.model_copy(update={name: getattr(lm.policy, name) for name in left_open})
    return rules


def check_unchanged(changed: Collection[str], name: str) -> None:
    """Raise UsageError where the policy is among the `changed` settings of a `name` that was made already."""
    if "policy" in changed:
        raise UsageError(
            f"The policy of this {name} is fixed since it was made.",
            hint=f"Make another: {name}(..., policy=Policy(...)).",
        )


def _made_of(policy: Policy, spec: LMSpec) -> str | None:
    """What `policy` holds an adapter to beside its settings: its model, pair, expert and floor, and the method that is
    its ContrastiveLM's own. None where it leaves the contrast open."""
    if not policy.bounds_contrast:
        return None
    method = spec.method if policy.as_served else spec.method == "none"
    try:
        pair = pair_key(spec.pair)
    except UsageError:  # it is no pair, as the first call will say
        pair = type(spec.pair).__name__
    return repr((spec.model, pair, expert_key(spec.expert), spec.revision, spec.gate_floor, method))
