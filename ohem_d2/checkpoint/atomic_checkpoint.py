import os
import shutil

from .safe_checkpoint import SafeCheckpointer

__all__ = ["AtomicCheckpointer"]


class AtomicCheckpointer(SafeCheckpointer):
    """
    A :class:`SafeCheckpointer` that may be killed while it writes: the file "last_checkpoint"
    in `save_dir`, a local folder, always names a complete checkpoint.
    """

    save_dir: str

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
            super().save(name, **kwargs)
        finally:
            self.save_dir = save_dir
        for file in (f"{name}.pth", "last_checkpoint"):  # the second names the first
            os.replace(os.path.join(folder, file), os.path.join(save_dir, file))
        os.rmdir(folder)
