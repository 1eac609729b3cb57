"""Advice for people: the table of what was tried, the reasons in sentences, the command that follows from them."""

from collections.abc import Mapping, Sequence

from metarec.evaluation.advice import Advice, Choice, Floor, Outcome, is_noise
from metarec.evaluation.bootstrap import Delta
from metarec.evaluation.metrics import LOWER_IS_BETTER

Row = dict[str, object]


def percent(gain: Delta) -> str:
    """A difference with its interval, in percent."""
    return f"{100 * gain.value:+.1f} % [{100 * gain.interval[0]:+.1f}, {100 * gain.interval[1]:+.1f}]"


def table_rows(advice: Advice | None, outcomes: Sequence[Outcome], floor: Floor, metrics: Sequence[str], rungs: int) -> list[Row]:
    """One row per candidate, from best to worst, then those that were not tried, then the plain baselines."""
    sign = 1.0 if metrics[0] in LOWER_IS_BETTER else -1.0
    tried = [advice.chosen, *(other.choice for other in advice.others.values())] if advice else []
    tried.sort(key=lambda choice: sign * choice.trained.metrics[metrics[0]])
    rows = [_row(choice, metrics, rungs, _verdict(choice, advice)) for choice in tried if advice]
    empty = dict.fromkeys(columns(metrics))
    for outcome in outcomes:
        if not outcome.trainings:
            reason = outcome.failed or outcome.refused or "out of time before its first training ended"
            rows.append({**empty, "learner": outcome.name, "verdict": reason})
    for name in sorted(floor.metrics, key=lambda name: sign * floor.metrics[name][metrics[0]]):
        verdict = "the floor: best plain baseline" if name == floor.best(metrics[0]) else ""
        rows.append({**empty, "learner": f"plain: {name}", **floor.metrics[name], "verdict": verdict})
    return rows


def columns(metrics: Sequence[str]) -> list[str]:
    """Columns of the table."""
    return ["learner", "epochs", "seeds", "rung", *metrics, "train s", "adapt ms", "state bytes", "verdict"]


def _row(choice: Choice, metrics: Sequence[str], rungs: int, verdict: str) -> Row:
    trained = choice.trained
    reached = max(training.rung for training in choice.outcome.trainings)
    return {
        "learner": choice.outcome.name,
        "epochs": f"{trained.epochs} of {trained.planned}",
        "seeds": trained.seeds,
        "rung": f"{reached} of {rungs}",
        **{name: trained.metrics[name] for name in metrics},
        "train s": f"{trained.seconds:.1f}",
        "adapt ms": f"{trained.adapt_ms:.2f}",
        "state bytes": f"{trained.state_bytes:,.0f}",
        "verdict": verdict,
    }


def _verdict(choice: Choice, advice: Advice) -> str:
    if choice.outcome == advice.chosen.outcome:
        return "recommended"
    other = advice.others[choice.outcome.name]
    said = _difference(other.gain)
    said = f"left in rung {other.left}, {said}" if other.left else said
    return f"{said}; out of time" if choice.outcome.out_of_time else said


def _difference(gain: Delta) -> str:
    """Of a candidate to the recommended one."""
    if is_noise(gain):
        return "within noise of it"
    (low, high), worse = gain.interval, gain.value > 0
    ends = (low, high) if worse else (-high, -low)
    return f"{100 * abs(gain.value):.1f} % [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}] {'worse' if worse else 'better'}"


def reasons(advice: Advice, *, users: str, shots: Sequence[int], sampled: float = 1.0) -> list[str]:
    """The recommendation in sentences: accuracy, the floor, what it costs, what remains open. `users` says who judged."""
    chosen, metric = advice.chosen, advice.metric
    name, figure = chosen.outcome.name, chosen.trained.metrics[metric]
    k = ", ".join(map(str, shots))
    several = f" and {chosen.trained.seeds} trainings (deviation {chosen.trained.seed_sd:.4f})" if chosen.trained.seed_sd else ""
    said = [f"{name} reaches {metric} {figure:.4f} on {users}; mean over {k} shots{several}."]
    said.append(_about_best(advice))
    said.append(_about_floor(advice))
    said.append(_beside(advice))
    said.append(_about_costs(advice))
    if chosen.trained.epochs != chosen.trained.planned:
        said.append(_about_length(chosen, metric))
    if chosen.changes and chosen.outcome.recipe not in advice.others:
        said.append(
            f"{chosen.outcome.recipe} as it is came to no end (the table says why), so what the change of settings brings is not "
            "known."
        )
    if chosen.trained.seeds == 1 and advice.others:
        said.append("Everyone was trained once, so that a quarter of a percent is taken for what another seed would move.")
    if sampled < 1:
        said.append(
            f"Trials saw {100 * sampled:.0f} % of the interactions (whole users); learners with more parameters may gain more "
            "from all of them."
        )
    return [sentence for sentence in said if sentence]


def _about_best(advice: Advice) -> str:
    chosen, tied = advice.chosen, advice.tied
    if not advice.others:
        return "There was nothing to compare it with; the table says why the others were not tried."
    if chosen.outcome == advice.best.outcome and chosen.trained != advice.best.trained:
        shorter = advice.best.trained
        figure = f"{shorter.metrics[advice.metric]:.4f}"
        others = f" Within the noise of it, too: {', '.join(tied)}." if tied else ""
        epochs = f"{shorter.epochs} epoch{'s' if shorter.epochs != 1 else ''}"
        return f"The best figure is its own after {epochs} ({figure}), but the difference is within noise.{others}"
    if chosen.outcome == advice.best.outcome and not tied:
        return "It has the best figure, and no other finalist is within the noise of it."
    if chosen.outcome == advice.best.outcome:
        return f"It has the best figure; within the noise of it: {', '.join(tied)}."
    best, mine = advice.best, chosen.trained
    plainer = chosen.outcome.recipe == best.outcome.recipe and chosen.changes < best.changes
    why = (
        "it needs fewer settings changed" if plainer else f"it adapts in {mine.adapt_ms:.2f} ms, not {best.trained.adapt_ms:.2f}"
    )
    return (
        f"The best figure is that of {best.outcome.name} ({best.trained.metrics[advice.metric]:.4f}), but the difference is "
        f"within noise, and {why}."
    )


def _about_floor(advice: Advice) -> str:
    gain, name = advice.floor, advice.chosen.outcome.name
    if gain is None:
        return ""
    if gain.interval[0] > 0:
        return f"It beats the best plain baseline, {gain.baseline}, by {percent(gain)}."
    others = f" Beyond noise better than that baseline: {', '.join(advice.above_floor)}." if advice.above_floor else ""
    if gain.interval[1] < 0:
        none = "" if advice.above_floor else "NO learner beats the plain baselines here: "
        return f"{none}{name} is worse than the best of them, {gain.baseline}: {percent(gain)}.{others}"
    none = "" if advice.above_floor else ", and NO other learner does"
    return f"It does NOT beat the best plain baseline, {gain.baseline}, beyond noise{none}: {percent(gain)}.{others}"


def _beside(advice: Advice) -> str:
    """The figures that decide nothing."""
    mine, plain = advice.chosen.trained.metrics, advice.floor_metrics
    names = [name for name in mine if name != advice.metric and name in plain]
    shown = [f"{name} {mine[name]:.4f} (the baseline's {plain[name]:.4f})" for name in names]
    return f"Beside that: {', '.join(shown)}." if shown else ""


def _about_costs(advice: Advice) -> str:
    mine = advice.chosen.trained
    said = (
        f"Serving: {mine.adapt_ms:.2f} ms to adapt to a user, {mine.score_ms:.2f} ms to score the catalogue, "
        f"{mine.state_bytes:,.0f} bytes of state a user."
    )
    sizes = {name: advice.others[name].choice.trained.state_bytes for name in advice.tied}
    smaller = [name for name, size in sizes.items() if 2 * size <= mine.state_bytes]
    return said + (f" Half that state or less within noise: {', '.join(smaller)}." if smaller else "")


def _about_length(chosen: Choice, metric: str) -> str:
    trained = chosen.trained
    if not chosen.shortened:
        return (
            f"It was tried with {trained.epochs} of its {trained.planned} epochs, which is what the budget allowed; the command "
            "below trains it in full."
        )
    longer = [other for other in chosen.outcome.trainings if other.epochs > trained.epochs]
    than = f" than for {longer[-1].epochs} ({longer[-1].metrics[metric]:.4f})" if longer else ""
    return (
        f"It is better trained for {trained.epochs} epochs{than or ', and was not tried for longer'}, as the command below does."
    )


def command(advice: Advice, data: str) -> list[str]:
    """The words of the `metarec train` command that trains what is recommended on everything."""
    return train_command(advice.chosen.outcome.recipe, advice.chosen.settings, advice.target, data)


def train_command(recipe: str, settings: Mapping[str, str], target: str, data: str) -> list[str]:
    """The same for a recipe with settings, which are those of the head for `target`."""
    words = ["metarec", "train", "--data", data, "--out", "registry", "--recipe", recipe]
    for path, value in settings.items():
        words += ["--set", f"{target}.{path}={value}"]
    return words
