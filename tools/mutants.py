"""Is the suite any good? Plants bugs one at a time and shows which test notices each.

``make mutants``, or ``python tools/mutants.py [words of a name ...]``. The package and its tests are
copied to a temporary directory; in the copy a piece of text is replaced, the tests that lie nearest
run, and if they notice nothing, all of them. Exit code 1 when a bug survives.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = (
    "portable_bp",
    "backends",
    "tests",
    "tools",
    "benchmarks",
    "docs",
    "pyproject.toml",
    "README.md",
)
PACKAGES = ("portable_bp", "portable_bp_backends")
WORKERS = 2
SECONDS = 600

EQ = "portable_bp/equations"
TRAINING = "portable_bp/training"
ADAPTERS = "backends/portable_bp_backends"
ESTIMATORS = "portable_bp/estimators"

GRADIENTS = "tests/equations/test_gradients.py"
OPTIMIZERS = "tests/equations/test_optimizers.py"
CHECKS = "tests/equivalence/test_checks.py"
HARD = "tests/equivalence/test_hard_modes.py"
RANDOM = "tests/equivalence/test_randomness.py"
PROPERTIES = "tests/equivalence/test_properties.py"
BEYOND = "tests/estimators/test_beyond.py"
FOLLOWS = "tests/estimators/test_follows_x.py"
PARITY = "tests/estimators/test_parity.py"
REUSE = "tests/estimators/test_reuse.py"
PLANTED = "tests/equivalence/test_mutants.py"
EVERYTHING = (
    "tests/equivalence", GRADIENTS, "tests/equations/test_known_answers.py", OPTIMIZERS,
    "tests/training/test_fit.py",
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A bug: ``old`` occurs exactly once in ``file`` and becomes ``new``; ``tests`` lie nearest."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def text(self, root: Path) -> str:
        """The file with the bug in it."""
        text = (root / self.file).read_text()
        count = text.count(self.old)
        if count != 1 or self.old == self.new:
            raise ValueError(f"{self.name}: its text occurs {count} times in {self.file}, not once")
        return text.replace(self.old, self.new)


MUTANTS = (
    # --- backpropagation
    Mutant(
        "missing 1/n", f"{EQ}/network.py",
        "        return 1 / x.shape[0]\n", "        return 1.0\n", (GRADIENTS,),
    ),
    Mutant(
        "weights divided by their number, not their sum", f"{EQ}/network.py",
        "weights / xp.where(total > 0, total, xp.ones_like(total))", "weights / x.shape[0]",
        (GRADIENTS,),
    ),
    Mutant(
        "batches without weight divide by zero", f"{EQ}/network.py",
        "weights / xp.where(total > 0, total, xp.ones_like(total))", "weights / total",
        ("tests/training/test_fit.py", PROPERTIES),
    ),
    Mutant(
        "transposed W: right shape, wrong entries", f"{EQ}/affine.py",
        "xp.matrix_transpose(W)", "xp.reshape(W, (W.shape[1], W.shape[0]))", (GRADIENTS,),
    ),
    Mutant(
        "bias gradient from the first row alone", f"{EQ}/affine.py",
        "xp.sum(delta, axis=0, dtype=delta.dtype)", "delta[0, :]", (GRADIENTS,),
    ),
    Mutant(
        "softmax over the wrong axis", f"{EQ}/activations.py",
        "return e / xp.sum(e, axis=1,", "return e / xp.sum(e, axis=0,", (GRADIENTS,),
    ),
    Mutant(
        "softmax: the diagonal of the Jacobian only", f"{EQ}/activations.py",
        "return a * (g - xp.sum(g * a, axis=1, keepdims=True, dtype=a.dtype))",
        "return g * a * (1 - a)", (GRADIENTS,),
    ),
    Mutant(
        "softmax without its shift", f"{EQ}/activations.py",
        "_, e = exp_shifted(z, xp.max(z, axis=1, keepdims=True), xp)",
        "_, e = exp_shifted(z, xp.zeros_like(z), xp)", (f"{PROPERTIES} -k numpy-softmax",),
    ),
    Mutant(
        "sigmoid that overflows", f"{EQ}/activations.py",
        "    return xp.where(z < 0, e, xp.ones_like(z)) / (1 + e)\n",
        "    return 1 / (1 + xp.exp(-z)) + 0 * e\n", (f"{GRADIENTS} -k extreme",),
    ),
    Mutant(
        "gelu' without the density", f"{EQ}/activations.py",
        "return _normal_cdf(z, xp) + z * density", "return _normal_cdf(z, xp) + 0 * density",
        (GRADIENTS,),
    ),
    Mutant(
        "gelu_tanh' is 0 times infinity far out", f"{EQ}/activations.py",
        "(w + (3 * _GELU_CUBIC) * (w * z * z))", "(w + (3 * _GELU_CUBIC) * ((z * z) * w))",
        (f"{PROPERTIES} -k numpy-gelu_tanh",),
    ),
    Mutant(
        "selu' without alpha", f"{EQ}/activations.py",
        "below = scale * alpha * xp.exp(", "below = scale * xp.exp(", (GRADIENTS,),
    ),
    Mutant(
        "erfc with its sides swapped", f"{EQ}/special.py",
        "xp.where(x < 0, 2 - right, right)", "xp.where(x > 0, 2 - right, right)",
        (f"{CHECKS} -k strict-activations",),
    ),
    Mutant(
        "the layer's own W in the delta rule", f"{EQ}/network.py",
        "        W = params[l + 1][0]\n",
        "        W = params[l if params[l][0].shape == params[l + 1][0].shape else l + 1][0]\n",
        (f"{CHECKS} -k central",),
    ),
    # --- losses
    Mutant(
        "a loss that is twice what its gradient is of", f"{EQ}/losses.py",
        "    return 0.5 * (r * r)\n", "    return r * r\n", (GRADIENTS,),
    ),
    Mutant(
        "weights ignored in one loss", f"{EQ}/network.py",
        "    data: Array = xp.sum(l * share, dtype=l.dtype)\n",
        '    share = 1 / x_rows if (x_rows := y.shape[0]) and eq.loss.name == "huber" else share\n'
        "    data: Array = xp.sum(l * share, dtype=l.dtype)\n", (GRADIENTS,),
    ),
    Mutant(
        "quantile's sides swapped", f"{EQ}/losses.py",
        "(0.5 - q) * (side * side)", "(q - 0.5) * (side * side)",
        (f"{GRADIENTS} -k quantile_loss",),
    ),
    Mutant(
        "labels as steps instead of one-hot rows", f"{EQ}/losses.py",
        "xp.expand_dims(labels, axis=1) == xp.expand_dims(classes, axis=0)",
        "xp.expand_dims(labels, axis=1) >= xp.expand_dims(classes, axis=0)",
        (f"{GRADIENTS} -k one_hot",),
    ),
    # --- penalties and dropout
    Mutant(
        "a penalty on biases", f"{EQ}/network.py",
        "    for (W, _), a, d in zip(params, cache.inputs, delta, strict=True):\n"
        "        dW, db = affine_gradients(a, d, xp=xp)\n",
        "    for (W, b), a, d in zip(params, cache.inputs, delta, strict=True):\n"
        "        dW, db = affine_gradients(a, d, xp=xp)\n"
        "        db = db + eq.l2 * b\n", (GRADIENTS,),
    ),
    Mutant(
        "sign(0) = 1", f"{EQ}/regularizers.py",
        "dW + l1 * xp.sign(W)", "dW + l1 * (2 * xp.astype(W >= 0, W.dtype) - 1)",
        (f"{GRADIENTS} -k slope_of",),
    ),
    Mutant(
        "l2 reported without its half", f"{EQ}/regularizers.py",
        "(0.5 * l2) * xp.sum", "l2 * xp.sum", (GRADIENTS,),
    ),
    Mutant(
        "the mask forgotten on the way back", f"{EQ}/network.py",
        "            g = g * mask\n        delta =", "            pass\n        delta =", (GRADIENTS,),
    ),
    Mutant(
        "dropout not scaled", f"{EQ}/regularizers.py",
        "xp.astype(keep, dtype) * (1 / (1 - rate))", "xp.astype(keep, dtype)",
        (f"{GRADIENTS} -k expectation",),
    ),
    Mutant(
        "the same mask at every step", f"{TRAINING}/step.py",
        "seed=plan.seed, layer=l, step=number, xp=xp,",
        "seed=plan.seed, layer=l, step=number & 0, xp=xp,", (f"{RANDOM} -k drops",),
    ),
    Mutant(
        "the same mask in every layer", f"{TRAINING}/step.py",
        "seed=plan.seed, layer=l, step=number, xp=xp,",
        "seed=plan.seed, layer=2, step=number, xp=xp,", (f"{RANDOM} -k drops",),
    ),
    Mutant(
        "Philox with nine rounds", f"{EQ}/random.py", "_ROUNDS = 10", "_ROUNDS = 9",
        (f"{RANDOM} -k published",),
    ),
    Mutant(
        "masks in float64 whatever is asked for", f"{EQ}/regularizers.py",
        "xp.astype(keep, dtype) * (1 / (1 - rate))", "xp.astype(keep, xp.float64) * (1 / (1 - rate))",
        (f"{RANDOM} -k masks_equal",),
    ),
    # --- optimisers and schedules
    Mutant(
        "adam: epsilon inside the root", f"{EQ}/optimizers.py",
        "alpha * (m / (xp.sqrt(v) + eps)), m, v", "alpha * (m / xp.sqrt(v + eps)), m, v",
        (OPTIMIZERS,),
    ),
    Mutant(
        "adam: wrong bias correction", f"{EQ}/optimizers.py",
        "eta * root / (1 - self.beta1**t)", "eta * root / (1 - self.beta1)", (OPTIMIZERS,),
    ),
    Mutant(
        "rmsprop: the new square not weighted", f"{EQ}/optimizers.py",
        "s = rho * s + (1 - rho) * (g * g)", "s = rho * s + g * g", (OPTIMIZERS,),
    ),
    Mutant(
        "nesterov without its look ahead", f"{EQ}/optimizers.py",
        "return p + (mu * v - d), v", "return p + v, v", (OPTIMIZERS,),
    ),
    Mutant(
        "adamw: decay coupled to the gradient", f"{EQ}/optimizers.py",
        "super().update(g, slots, c[2] * p, c[:2], xp=xp)",
        "super().update(g + self.decay * p, slots, p, c[:2], xp=xp)", (OPTIMIZERS,),
    ),
    Mutant(
        "small gradients scaled up to the limit", f"{EQ}/optimizers.py",
        "limit / xp.maximum(norm, xp.full_like(norm, limit))", "limit / norm", (OPTIMIZERS,),
    ),
    Mutant(
        "clipping that only runs as it is written", f"{EQ}/optimizers.py",
        "factor = limit / xp.maximum(norm, xp.full_like(norm, limit))",
        "factor = limit / norm if norm > limit else xp.ones_like(norm)",
        (f"{CHECKS} -k jax-steps",),
    ),
    Mutant(
        "schedule ahead by one step", f"{TRAINING}/loop.py",
        "for t in range(first, last)]", "for t in range(first + 1, last + 1)]",
        (f"{OPTIMIZERS} -k whole_runs",),
    ),
    Mutant(
        "one_cycle peaks a step late", f"{EQ}/schedules.py",
        "self.rise * length - 1, length - 1", "self.rise * length, length - 1", (OPTIMIZERS,),
    ),
    Mutant(
        "glorot from the inputs alone", f"{EQ}/initializers.py",
        "return 2 / (fan_in + fan_out)", "return 2 / (fan_in + fan_in)", (OPTIMIZERS,),
    ),
    # --- the training loop
    Mutant(
        "the last, smaller batch dropped", f"{TRAINING}/loop.py",
        "order[whole:].reshape(1, -1)]", "order[whole:whole].reshape(1, -1)]",
        (f"{OPTIMIZERS} -k whole_runs",),
    ),
    Mutant(
        "the order of the first epoch for ever", f"{TRAINING}/loop.py",
        "rng.permutation(n, self.seed, rng.SHUFFLE, self.epoch)",
        "rng.permutation(n, self.seed, rng.SHUFFLE, 0)", (f"{OPTIMIZERS} -k whole_runs",),
    ),
    Mutant(
        "a mean of batches that are not equally large", f"{TRAINING}/loop.py",
        "        rows[-1] = self.feed.n - (self.per_epoch - 1) * self.batch_size\n", "",
        (f"{OPTIMIZERS} -k whole_runs",),
    ),
    Mutant(
        "coefficients in float64", f"{TRAINING}/loop.py",
        "(np.asarray(c).astype(self.dtype) for c in coefficients)",
        "(np.asarray(c) for c in coefficients)", (f"{CHECKS} -k strict-training",),
    ),
    Mutant(
        "the loss by way of the host", f"{EQ}/network.py",
        "    data: Array = xp.sum(l * share, dtype=l.dtype)\n",
        "    data: Array = xp.asarray(float(xp.sum(l * share, dtype=l.dtype)), dtype=l.dtype)\n",
        (f"{CHECKS} -k jax-steps",),
    ),
    Mutant(
        "the loss of each step read at once", "portable_bp/backend/base.py",
        "                losses.append(loss)\n",
        "                losses.append(backend.asarray(backend.to_numpy(loss)))\n",
        (f"{HARD} -k reads",),
    ),
    # --- adapters
    Mutant(
        "eager: each step sees the batch before", "portable_bp/backend/base.py",
        "                    index = rows[i, ...]\n", "                    index = rows[i - 1, ...]\n",
        (f"{CHECKS} -k strict-random",),
    ),
    Mutant(
        "NumPy plan: gather off by one", f"{ADAPTERS}/numpy_plan/runner.py",
        "rows.take(order.reshape(-1), 0,", "rows.take(order.reshape(-1) + 1, 0,",
        (f"{CHECKS} -k numpy-random",),
    ),
    Mutant(
        "NumPy plan: the numbers of the first step kept", f"{ADAPTERS}/numpy_plan/plan.py",
        "column[0 if same else i, ...]", "column[0, ...]", (f"{CHECKS} -k numpy-random",),
    ),
    Mutant(
        "NumPy plan: new state over old that is still read", f"{ADAPTERS}/numpy_plan/memory.py",
        "        if last < i:\n            return True\n        readers",
        "        if last < i + 4:\n            return True\n        readers",
        (f"{CHECKS} -k numpy-steps", "tests/backends/test_numpy_plan.py"),
    ),
    Mutant(
        "NumPy plan: snapshots that change later", f"{ADAPTERS}/numpy_plan/runner.py",
        "return map_leaves(np.copy, self._state)", "return self._state",
        ("tests/backends/test_numpy_plan.py",),
    ),
    Mutant(
        "NumPy: arrays shared with the user's", f"{ADAPTERS}/numpy_backend.py",
        "return native_copy(values, dtype)", "return np.asarray(values, dtype)",
        (f"{CHECKS} -k numpy-transfers",),
    ),
    Mutant(
        "foreign byte orders handed on", f"{ADAPTERS}/_host.py",
        "return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder(\"=\"))",
        "return array", (f"{HARD} -k byte_orders",),
    ),
    Mutant(
        "torch: erf for erfc", f"{ADAPTERS}/torch_backend.py",
        '"erfc": torch.special.erfc', '"erfc": torch.special.erf',
        (f"{CHECKS} -k torch-activations",),
    ),
    Mutant(
        "torch: the user's autograd left on", f"{ADAPTERS}/torch_backend.py",
        "self._torch.no_grad()", "self._torch.enable_grad()", (f"{HARD} -k graph",),
    ),
    Mutant(
        "jax: a constant of the first step compiled in", f"{ADAPTERS}/jax_scan.py",
        "return step(backend.xp, state, (*batch, numbers))",
        "return step(backend.xp, state, (*batch, tuple(t[0] for t in table)))",
        (f"{CHECKS} -k jax-random",),
    ),
    Mutant(
        "jax: the user's arrays given to the program", f"{ADAPTERS}/jax_scan.py",
        "            self._state = map_leaves(backend.copy, state)\n",
        "            self._state = state\n", (f"{HARD} -k single_precision",),
    ),
    Mutant(
        "jax: the memory of a NumPy array taken over", f"{ADAPTERS}/jax_backend.py",
        "        host = native_copy(values, dtype)\n", "        host = np.asarray(values, dtype)\n",
        (f"{HARD} -k used_again",),
    ),
    Mutant(
        "jax: products in whatever precision", f"{ADAPTERS}/jax_backend.py",
        'default_matmul_precision("highest")', 'default_matmul_precision("default")',
        (f"{HARD} -k full_precision",),
    ),
    Mutant(
        "jax: traced anew for each run", f"{ADAPTERS}/jax_scan.py",
        "            self._state, losses = self._epoch(",
        "            import jax\n\n            jax.clear_caches()\n"
        "            self._state, losses = self._epoch(", (f"{HARD} -k traced",),
    ),
    # --- the estimators
    Mutant(
        "estimators: the start of logistic units", f"{ESTIMATORS}/_base.py",
        "(2.0 if rule in", "(6.0 if rule in", (PARITY,),
    ),
    Mutant(
        "estimators: a plateau that is looked at late", f"{ESTIMATORS}/_stochastic.py",
        "            isinstance(est.learning_rate, ReduceOnPlateau),\n", "", (BEYOND,),
    ),
    Mutant(
        "estimators: a penalty by rows where there are weights", f"{ESTIMATORS}/_stochastic.py",
        "np.add.reduceat(weights[order], starts)", "self.sizes.astype(np.float64)", (PARITY,),
    ),
    Mutant(
        "estimators: a loss without scikit-learn's bound", f"{ESTIMATORS}/_losses.py",
        "return xp.minimum(l, xp.full_like(l, -math.log(float(info.eps))))",
        "return l + 0 * float(info.eps)", (PARITY,),
    ),
    Mutant(
        "estimators: weights of classes instead of those of rows", f"{ESTIMATORS}/_base.py",
        "return by_class if weights is None else weights * by_class", "return by_class", (BEYOND,),
    ),
    Mutant(
        "estimators: predictions anywhere", f"{ESTIMATORS}/_base.py",
        "if there.spec == home.spec:", "if there.spec:", (FOLLOWS,),
    ),
    Mutant(
        "estimators: X read by the host", f"{ESTIMATORS}/_input.py",
        "bool(backend.to_numpy(backend.xp.all(backend.xp.isfinite(array))))",
        "bool(np.isfinite(backend.to_numpy(array)).all())", (FOLLOWS,),
    ),
    Mutant(
        "estimators: half a fit when the memory ran out", f"{ESTIMATORS}/_base.py",
        "            self.__dict__.clear()\n            self.__dict__.update(before)\n", "",
        ("tests/estimators/test_bad_input.py",),
    ),
    Mutant(
        "estimators: an epoch that begins and never ends", f"{ESTIMATORS}/_callbacks.py",
        "            if self._open:", "            if False:", (BEYOND,),
    ),
    Mutant(
        "estimators: quantiles that cross", f"{ESTIMATORS}/_regressor.py",
        "xp.sort(xp.reshape(out, (out.shape[0], -1, levels)), axis=2)",
        "xp.reshape(out, (out.shape[0], -1, levels))", (BEYOND,),
    ),
    Mutant(
        "estimators: the last parameters instead of the best", f"{ESTIMATORS}/_stochastic.py",
        "            params = self.best\n", "            pass\n", (BEYOND,),
    ),
    Mutant(
        "estimators: moments exchanged on the way to scikit-learn", f"{ESTIMATORS}/_interop.py",
        "(_flat(s) for s in state.slots)", "(_flat(s) for s in reversed(state.slots))", (BEYOND,),
    ),
    Mutant(
        "estimators: log probabilities that are not finite", f"{ESTIMATORS}/_classifier.py",
        "xp.log(xp.where(some, p, xp.ones_like(p))), stable)", "xp.log(p), xp.log(p))", (BEYOND,),
    ),
    Mutant(
        "estimators: a pickle that holds the device", f"{ESTIMATORS}/_base.py",
        "if not coefs or owner(coefs[0]) is None:", "if True:", (FOLLOWS,),
    ),
    Mutant(
        "estimators: an infinite loss that is no error", f"{ESTIMATORS}/_base.py",
        "not (math.isfinite(self.loss_) and place.finite(found))", "not place.finite(found)",
        ("tests/estimators/test_bad_input.py",),
    ),
    Mutant(
        "plans: two runners in one memory", f"{ADAPTERS}/numpy_plan/runner.py",
        "found = idle.pop(form, None)", "found = idle.get(form)", (REUSE,),
    ),
    Mutant(
        "plans: the state of the run before", f"{ADAPTERS}/numpy_plan/runner.py",
        "        workshop.start(given)\n", "", (REUSE,),
    ),
)  # fmt: skip


class Copy:
    """A copy of the package and its tests to plant bugs in."""

    def __init__(self, where: Path) -> None:
        self.root = where
        where.mkdir()
        no_caches = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info")
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, where / name, ignore=no_caches)
            else:
                shutil.copy(ROOT / name, where / name)
        paths = [str(where), str(where / "backends")]
        # No compiled files: two texts of one length within a second would look the same.
        self.environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        }  # fmt: skip
        for package in PACKAGES:
            found = self.python("-c", f"import {package}; print({package}.__file__)").stdout
            if not found.startswith(str(where)):
                raise RuntimeError(f"the copy is not what is imported: {found}")

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], env=self.environment, cwd=self.root, capture_output=True,
            text=True, timeout=SECONDS,
        )  # fmt: skip

    def failing(self, tests: str) -> str:
        """The first test that fails; empty when all pass.

        The test that all bugs can be planted is left out: it would notice one that is.
        """
        options = (
            f"--ignore={PLANTED}",
            "-x",
            "-q",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            "-m",
            "not slow",
            "--tb=no",
        )
        try:
            done = self.python("-m", "pytest", *options, *tests.split())
        except subprocess.TimeoutExpired:
            return f"(no end after {SECONDS} s)"
        if done.returncode == 0:
            return ""
        found = re.search(r"^(?:FAILED|ERROR) (\S+(?: [^-]\S*)*)", done.stdout, re.MULTILINE)
        if done.returncode != 1 or found is None or "::" not in found[1]:
            raise RuntimeError(f"the tests did not run: {tests}\n{done.stdout}{done.stderr}")
        return found[1]

    def verdict(self, mutant: Mutant) -> str:
        """The test that notices the bug; empty when none does."""
        path = self.root / mutant.file
        sound = path.read_text()
        path.write_text(mutant.text(self.root))
        try:
            for tests in (*mutant.tests, " ".join(EVERYTHING)):
                found = self.failing(tests)
                if found:
                    return found
            return ""
        finally:
            path.write_text(sound)


def main(words: Sequence[str]) -> int:
    chosen = [m for m in MUTANTS if not words or any(w in m.name for w in words)]
    print(f"{len(chosen)} bugs, one at a time\n", flush=True)
    began, survivors = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        free = [Copy(Path(folder) / f"copy{i}") for i in range(WORKERS)]
        lock = threading.Lock()

        def judge(mutant: Mutant) -> str:
            with lock:
                copy = free.pop()
            try:
                return copy.verdict(mutant)
            finally:
                free.append(copy)

        # Tests that fail on sound code would notice everything.
        with ThreadPoolExecutor(WORKERS) as pool:
            files = dict.fromkeys(tests.split()[0] for m in chosen for tests in m.tests)
            sound = Copy(Path(folder) / "sound")
            for failed in pool.map(sound.failing, files):
                if failed:
                    print(f"{failed} fails without any bug")
                    return 2
            width = max(len(m.name) for m in chosen)
            for mutant, test in zip(chosen, pool.map(judge, chosen), strict=True):
                print(f"{mutant.name:{width}}  {test or 'SURVIVES'}", flush=True)
                if not test:
                    survivors.append(mutant)
    print(f"\n{len(chosen) - len(survivors)} of {len(chosen)} noticed, "
          f"{time.perf_counter() - began:.0f} s")  # fmt: skip
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
