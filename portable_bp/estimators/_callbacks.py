"""scikit-learn's callback protocol (1.9 and newer) around our epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from portable_bp._typing import Params
from portable_bp.estimators._place import Place

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn before 1.9: no callbacks, everything else

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing to support."""

    F = TypeVar("F", bound=Callable[..., Any])

    def with_callbacks(method: F) -> F:
        """The method as it is."""
        return method


__all__ = ["CallbackSupportMixin", "Watch", "with_callbacks"]


class Watch:
    """The callbacks of one fit: a task for the fit and one for each epoch.

    Attributes
    ----------
    hooks : functions of the parameters after an epoch, which answer whether to stop; none when the
        estimator has no callbacks
    """

    def __init__(
        self, est: Any, X: Any, y: Any, sample_weight: Any, place: Place, epochs: int
    ) -> None:
        self._est, self._place, self._epochs, self._seen = est, place, epochs, 0
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._data = {"estimator": est, "X": X, "y": y, "metadata": metadata}
        self._task: Any = None
        self._open = False
        self.hooks: Sequence[Callable[[Params], bool]] = ()

    def __enter__(self) -> Watch:
        if getattr(self._est, "_skl_callbacks", None):
            self._task = self._est._init_callback_context(max_subtasks=self._epochs)
            self._task.call_on_fit_task_begin(**self._data)
            self._begin_epoch()
            self.hooks = (self._end_epoch,)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._task is not None and error is None:
            if self._open:  # an epoch that was announced, and did not come
                self._epoch.call_on_fit_task_end(**self._data)
            self._task.call_on_fit_task_end(**self._data, reconstruction_attributes={})

    def _begin_epoch(self) -> None:
        self._epoch = self._task.subcontext(task_name="epoch")
        self._epoch.call_on_fit_task_begin(**self._data)
        self._open = True

    def _end_epoch(self, params: Params) -> bool:
        def fitted() -> dict[str, Any]:
            return {
                "coefs_": [self._place.to_home(W) for W, _ in params],
                "intercepts_": [self._place.to_home(b) for _, b in params],
            }

        self._open = False
        stop = self._epoch.call_on_fit_task_end(**self._data, reconstruction_attributes=fitted)
        self._seen += 1
        if not stop and self._seen < self._epochs:
            self._begin_epoch()
        return bool(stop)
