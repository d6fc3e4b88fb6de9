"""Networks: timm's, and the few it lacks, behind one :func:`~cxr_common.models.zoo.build`."""
