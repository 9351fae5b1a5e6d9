from .targets import TargetsWithIgnoreRegions

__all__ = ["TargetsWithIgnoreRegions"]
