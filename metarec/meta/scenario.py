"""Scenarios as tasks: what all users of one have in common against the users of training (DESIGN 4.1, one level up).

A new platform, market or surface has a shift of the prior mean that its users share. In scenario s the vector of user u is

    w_u = w0(x_u) + m_s + e_u        e_u ~ N(0, V) as ever        m_s ~ N(0, kappa V)

with one e_u for a user wherever they are. With every e_u integrated out, the shifts have a joint Gaussian posterior in closed
form (the hierarchical linear model of Lindley & Smith 1972, section 2). In coordinates whitened by V let a user's rows in
scenario s be Z_s with weights R_s (inverse noise), residuals r_s under m = 0; let B_s = Z_s' R_s Z_s, b_s = Z_s' R_s r_s, and
over all their rows A = I + sum B_s, b = sum b_s. By the matrix inversion lemma they tell about (m_s, m_t) with

    precision P_st = [s = t] B_s - B_s A^-1 B_t        moment h_s = b_s - B_s A^-1 b

Sums over users are all there is to keep. Users of one scenario only give I - A^-1; users of several compare them directly (the
blocks P_st). A user who is more erratic than the prior expects weighs less by that much, the noise scale that the learner gives
them: one angry person is no scenario. kappa, the variance between scenarios over that between users, is averaged over by its
marginal likelihood (MacKay 1992) times a prior that prefers little (Simpson et al. 2017): a handful of rows moves nobody far,
and says how uncertain it is.

Users of training lie off their prior mean themselves, the more so the more they rated (w0 is trained to predict, with few rows
for the most part): what a scenario has in common is counted from how users of training with as many rows lie (`reference`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import torch
from torch import Tensor

from metarec.errors import ConfigError
from metarec.meta.alpaca import Alpaca
from metarec.meta.alpaca_terms import choice, support_noise, unknown
from metarec.meta.prior import Head
from metarec.meta.scenario_kappa import KAPPAS, Spectra, spectrum, weigh
from metarec.meta.scenario_system import Others, by_place, marked
from metarec.models.contract import MetaParams
from metarec.models.linear_gaussian import LinearGaussian
from metarec.tasks.batch import Batch

Key = TypeVar("Key")

NEGLIGIBLE = 1e-4
"""Weight below which a kappa is left out of means."""

REFERENCE, REFERENCE_ROWS = "scenario.reference", "scenario.rows"
"""Names in theta of the reference (R, E) and of the numbers of rows (R,) for which it is learned, rising."""
SWEEPS, TOLERANCE = 200, 1e-10


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What a scenario's users have in common: the mean of m (E,), its covariance (E, E) with other scenarios' shifts as they are,
    the mean of kappa, and what was learned from."""

    mean_E: Tensor
    covariance_EE: Tensor
    kappa: float
    num_users: int
    num_rows: int = 0

    def head(self, head: Head) -> Head:
        """`head` for users of the scenario: its prior mean moved by the mean of m."""
        moved = head.theta["task.mean"] + self.mean_E.to(head.theta["task.mean"].dtype)
        return replace(head, theta={**head.theta, "task.mean": moved})


@dataclass
class Evidence:
    """Sums over users about the shifts of scenarios 1, 2, ... under a head; scenario 0 is the default one, without a shift.

    `precision` holds the blocks P_st (E, E) for s <= t that users tell about, `moment` the h_s, whitened by V.
    """

    head: Head
    precision: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    moment: dict[int, Tensor] = field(default_factory=dict)
    num_users: dict[int, int] = field(default_factory=dict)
    num_rows: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """ConfigError for a head not in closed form."""
        if not has_scenarios(self.head):
            raise ConfigError(
                f"scenarios are tasks of learner '{Alpaca.name}', kind 'user', not of '{self.head.learner.name}', kind "
                f"'{self.head.kind}'",
                field="learner",
            )

    def add(self, support: Batch, scenario_TN: Tensor) -> None:
        """Count users in by their rows and the scenario of each."""
        z_TNE, r_TN = _whitened(self.head, support)
        chol_TEE = torch.linalg.cholesky(z_TNE.mT @ z_TNE + torch.eye(z_TNE.shape[2], dtype=z_TNE.dtype))
        y_TNE = _lower(chol_TEE, z_TNE.mT).mT
        half_TE = (y_TNE.mT @ r_TN[..., None])[..., 0]
        weight_T = self._weights(support, r_TN.square().sum(1) - half_TE.square().sum(1))
        # Rows of h_s = Z_s' (r_s - Z_s A^-1 b), and of P_st = [s = t] Z_s' Z_s - Z_s' (Y_s Y_t' Z_t) with Y = Z L^-T, A = L L'.
        left_TN = weight_T[:, None] * (r_TN - (y_TNE @ half_TE[..., None])[..., 0])
        place_TN = torch.where(support.mask_TN, scenario_TN, 0)
        for k in sorted(set(place_TN.flatten().tolist()) - {0}):
            here_TN = place_TN == k
            task_K = here_TN.any(1).nonzero()[:, 0]
            z_KNE, y_KNE, place_KN, weight_K = z_TNE[task_K], y_TNE[task_K], place_TN[task_K], weight_T[task_K]
            own_KM, mask_KM = marked(here_TN[task_K])
            z_KME, y_KME = (torch.take_along_dim(rows, own_KM[..., None], 1) * mask_KM[..., None] for rows in (z_KNE, y_KNE))
            self._count(k, len(task_K), int(mask_KM.sum()))
            _add(self.moment, k, torch.einsum("kme,km->e", z_KME, torch.take_along_dim(left_TN[task_K], own_KM, 1)))
            zw_KME = z_KME * weight_K[:, None, None]
            _add(self.precision, (k, k), zw_KME.flatten(0, 1).T @ z_KME.flatten(0, 1))
            few = 2 * z_KME.shape[1] < z_KME.shape[2]
            v_KNE = (y_KNE @ y_KME.mT) @ zw_KME if few else y_KNE @ (y_KME.mT @ zw_KME)
            for other, z_ME, v_ME in by_place(place_KN, k, z_KNE, v_KNE):
                _add(self.precision, (other, k), -(z_ME.T @ v_ME))

    def _weights(self, support: Batch, fit_T: Tensor) -> Tensor:
        """Over how much more erratic a task is than the prior expects (Alpaca's noise scale)."""
        shape, count_T = cast(Alpaca, self.head.learner).noise_shape, support.mask_TN.sum(1)
        return ((shape + count_T) / (shape + fit_T)).clamp_max(1.0) if shape > 0 else torch.ones_like(fit_T)

    def _count(self, k: int, users: int, rows: int) -> None:
        self.num_users[k] = self.num_users.get(k, 0) + users
        self.num_rows[k] = self.num_rows.get(k, 0) + rows

    def solve(self, kappas: Sequence[float] = KAPPAS) -> dict[int, Scenario]:
        """The posterior of each scenario that has users, given the others', averaged over these kappas by their evidence."""
        own: Spectra = {k: spectrum(self.precision[k, k]) for k in self.moment}
        others = Others.of(self.precision)
        weight_C = weigh(own, self.moment, kappas)
        mean = self._means(own, others, kappas, weight_C)
        if others.names:
            # Users in several scenarios: what kappa explains is what other shifts leave.
            average = {k: weight_C @ mean_CE for k, mean_CE in mean.items()}
            weight_C = weigh(own, {k: others.rest(k, self.moment[k], average) for k in own}, kappas)
            mean = self._means(own, others, kappas, weight_C)
        kappa = float(weight_C @ torch.tensor(kappas, dtype=torch.float64))
        return {k: self._scenario(k, own[k], mean[k], kappas, weight_C, kappa) for k in own}

    def _scenario(
        self, k: int, own: tuple[Tensor, Tensor], mean_CE: Tensor, kappas: Sequence[float], weight_C: Tensor, kappa: float
    ) -> Scenario:
        scale_E = torch.exp(0.5 * self.head.theta["prior.log_var"]).double()
        (value_E, root_EE), mean_E = own, weight_C @ mean_CE
        spread_E = weight_C @ torch.stack([1 / (value_E + 1 / each) for each in kappas])
        apart_CE = mean_CE - mean_E
        covariance_EE = (root_EE * spread_E) @ root_EE.T + (apart_CE * weight_C[:, None]).T @ apart_CE
        return Scenario(
            mean_E=scale_E * mean_E,
            covariance_EE=scale_E[:, None] * covariance_EE * scale_E,
            kappa=kappa,
            num_users=self.num_users[k],
            num_rows=self.num_rows[k],
        )

    def _means(self, own: Spectra, others: Others, kappas: Sequence[float], weight_C: Tensor) -> dict[int, Tensor]:
        """Means (C, E) of each scenario under each kappa that counts, all solved together."""
        found = {k: torch.zeros(len(kappas), len(moment), dtype=moment.dtype) for k, moment in self.moment.items()}
        start = {k: torch.zeros_like(moment) for k, moment in self.moment.items()}
        for place, kappa in enumerate(kappas):
            if weight_C[place] > NEGLIGIBLE:
                start = self._sweep(own, others, start, kappa)
                for k, mean_E in start.items():
                    found[k][place] = mean_E
        return found

    def _sweep(self, own: Spectra, others: Others, mean: dict[int, Tensor], kappa: float) -> dict[int, Tensor]:
        """Gauss-Seidel, which converges for a positive definite system; one round where nobody is in two scenarios."""
        mean = dict(mean)
        for _ in range(SWEEPS):
            moved = 0.0
            for k, (value_E, root_EE) in own.items():
                fresh_E = root_EE @ ((root_EE.T @ others.rest(k, self.moment[k], mean)) / (value_E + 1 / kappa))
                moved = max(moved, float((fresh_E - mean[k]).abs().max()))
                mean[k] = fresh_E
            if moved < TOLERANCE or not others.names:
                break
        return mean


def has_scenarios(head: Head) -> bool:
    """Whether scenarios are tasks of the head: its learner is in closed form and its tasks are users."""
    return head.learner.name == Alpaca.name and head.kind == "user"


def adapt_scenario(head: Head, supports: Iterable[Batch], kappas: Sequence[float] = KAPPAS) -> Scenario:
    """The posterior of one scenario from the support sets of its users, in batches; ConfigError for a head not in closed form."""
    evidence = Evidence(head)
    for support in supports:
        evidence.add(support, torch.ones_like(support.row_TN))
    width = len(head.theta["task.mean"])
    empty = Scenario(
        mean_E=torch.zeros(width, dtype=torch.float64),
        covariance_EE=KAPPAS[0] * torch.diag(torch.exp(head.theta["prior.log_var"].double())),
        kappa=KAPPAS[0],
        num_users=0,
    )
    return evidence.solve(kappas).get(1, empty)


def without_shifts(head: Head, support: Batch, shift_TNE: Tensor) -> Batch:
    """The support set as it would be without the shifts of the scenarios that its rows are from: labels less phi(j)' m.

    A user within scenario s then has the vector `adapt` of it plus m_s: exactly that of the moved prior, since labels enter the
    posterior mean as they do the residuals.
    """
    phi_TNE, _ = cast(LinearGaussian, head.model).batch_features(head.theta, support)
    added_TN = torch.einsum("tne,tne->tn", phi_TNE, shift_TNE.to(phi_TNE.dtype))
    return replace(support, label_TN=support.label_TN - torch.where(support.mask_TN, added_TN, 0))


def reference(theta: MetaParams, size_T: Tensor) -> Tensor:
    """How users of training with so many rows lie from their prior mean (T, E), on average; 0 for heads without it."""
    if REFERENCE not in theta:
        return torch.zeros(len(size_T), len(theta["task.mean"]), dtype=theta["task.mean"].dtype)
    at_RE = torch.cat([torch.zeros_like(theta[REFERENCE][:1]), theta[REFERENCE]])
    knot_R = torch.log1p(torch.cat([torch.zeros(1, dtype=at_RE.dtype), theta[REFERENCE_ROWS].to(at_RE.dtype)]))
    place_T = torch.log1p(size_T.to(at_RE.dtype)).clamp(max=float(knot_R[-1]))
    below_T = (torch.searchsorted(knot_R, place_T, right=True) - 1).clamp(0, len(knot_R) - 2)
    part_T1 = ((place_T - knot_R[below_T]) / (knot_R[below_T + 1] - knot_R[below_T]))[:, None]
    return at_RE[below_T] * (1 - part_T1) + at_RE[below_T + 1] * part_T1


def _whitened(head: Head, support: Batch) -> tuple[Tensor, Tensor]:
    """Features (T, N, E) whitened by V and residuals (T, N) under m = 0, over the rows' standard deviations; 0 where padded."""
    linear = cast(LinearGaussian, head.model)
    with torch.no_grad():
        phi_TNE, bias_TN = linear.batch_features(head.theta, support)
        prior_TE = linear.task_prior(head.theta, support.tables.tasks, support.task_T)
        prior_TE = prior_TE + choice(head.theta, phi_TNE, support, unknown(support)).sum(1)
        prior_TE = prior_TE + reference(head.theta, support.mask_TN.sum(1))
        known_TN = head.theta["mu"] + bias_TN + torch.einsum("tne,te->tn", phi_TNE, prior_TE)
        weight_TN = support.mask_TN / support_noise(head.theta, support).double().sqrt()
        scale_E = torch.exp(0.5 * head.theta["prior.log_var"]).double()
        residual_TN = (support.label_TN.to(known_TN.dtype) - known_TN).double()
        return phi_TNE.double() * scale_E * weight_TN[..., None], residual_TN * weight_TN


def _lower(chol_TEE: Tensor, value_TEX: Tensor) -> Tensor:
    found: Tensor = torch.linalg.solve_triangular(chol_TEE, value_TEX, upper=False)
    return found


def _add(sums: dict[Key, Tensor], key: Key, value: Tensor) -> None:
    sums[key] = sums[key] + value if key in sums else value
