from .mean_roi_loss import build_mean_roi_loss_loader, features_and_rois, mean_roi_loss

__all__ = ["build_mean_roi_loss_loader", "features_and_rois", "mean_roi_loss"]
