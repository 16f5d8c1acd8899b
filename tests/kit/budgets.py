"""Claims on ledgers, and what they hold. Proves nothing itself."""

from softstop.law.amounts import Amount, exactly
from softstop.law.ledgers import Claim, ClaimState, Hold, Ledger


def claim(*chain: Ledger, tokens: int = 0, nano_usd: int = 0, inside: tuple[Hold, ...] = ()) -> Claim:
    made = Claim(chain, exactly(Amount(tokens, nano_usd)), inside, lambda: None)
    made.enter()
    return made


def hold_of(made: Claim) -> Hold:
    assert made.state is ClaimState.granted
    assert made.hold is not None
    return made.hold
