import os
import shutil
from pathlib import Path
from typing import Any

from ..utils import InputError
from ..utils.atomic import named_errors
from .safe_checkpoint import SafeCheckpointer, read_safely
from .strict_checkpoint import check_compatible

__all__ = ["AtomicCheckpointer"]


class AtomicCheckpointer(SafeCheckpointer):
    """
    A :class:`SafeCheckpointer` that may be killed while it writes: the file "last_checkpoint" in
    `save_dir`, a local folder, always names a complete checkpoint. A training resumes from nothing
    less.
    """

    save_dir: str
    _resumed_from: str = ""  # the file, while it is loaded

    def save(self, name: str, **kwargs) -> None:
        """
        Same as :meth:`Checkpointer.save`.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        save_dir = self.save_dir
        folder = os.path.join(save_dir, "unfinished_checkpoint")
        shutil.rmtree(folder, ignore_errors=True)  # from a killed run
        os.mkdir(folder)
        # The parent class writes both files into self.save_dir.
        self.save_dir = folder
        try:
            with named_errors(os.path.join(save_dir, f"{name}.pth")):
                super().save(name, **kwargs)
        finally:
            self.save_dir = save_dir
        for file in (f"{name}.pth", "last_checkpoint"):  # the second names the first
            os.replace(os.path.join(folder, file), os.path.join(save_dir, file))
        os.rmdir(folder)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """
        Same as :meth:`Checkpointer.resume_or_load`.

        Raises:
            InputError: if the checkpoint to resume from is missing or broken, is of another model,
                or lacks the state of the training.
        """
        if not (resume and self.has_checkpoint()):
            return super().resume_or_load(path, resume=False)
        last = os.path.join(self.save_dir, "last_checkpoint")
        try:
            self._resumed_from = self.get_checkpoint_file()
            if not os.path.isfile(self._resumed_from):
                raise InputError(f"{self._resumed_from}, which it names, is not a file.")
            return super().resume_or_load(path, resume=True)
        except InputError as e:
            raise InputError(
                f"The training cannot be resumed from {last}: {e}{self._find_another()}"
            ) from e
        finally:
            self._resumed_from = ""

    def get_checkpoint_file(self) -> str:
        try:
            return super().get_checkpoint_file()
        except ValueError as e:  # it is no text
            raise InputError(f"it does not name a file: {e}.") from e

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if not self._resumed_from:
            return super()._load_model(checkpoint)
        missing = [x for x in (*self.checkpointables, "iteration") if x not in checkpoint]
        if missing:
            raise InputError(
                f"{self._resumed_from} lacks the state of a training: {', '.join(missing)}. To "
                "begin a training with its weights, set MODEL.WEIGHTS to it, without --resume."
            )
        incompatible = super()._load_model(checkpoint)
        check_compatible(incompatible, self._resumed_from)
        return incompatible

    def _find_another(self) -> str:
        """
        Returns:
            str: the newest other checkpoint that can be read, as a remedy. Empty if there is none.
        """
        files = [x for x in Path(self.save_dir).glob("*.pth") if str(x) != self._resumed_from]
        for file in sorted(files, key=lambda x: x.stat().st_mtime, reverse=True):
            try:
                content = read_safely(str(file))
            except InputError:
                continue
            if "iteration" in content:
                return f" The newest other one is {file.name}: write its name into last_checkpoint."
        return ""
