"""Gradients of the loss, one file each, all returning one `Params` tree of dL/d(weight).

`exact`      automatic differentiation of the loss over the data
`leading`    the leading terms: the vector field whose trajectory from zero is the closed form
`effective`  uniform attention, and the loss to second order in what context adds
"""

from assocjax.gradients.effective import effective_gradient as effective_gradient
from assocjax.gradients.effective import effective_loss as effective_loss
from assocjax.gradients.effective import uniform_attention_gradient as uniform_attention_gradient
from assocjax.gradients.exact import count_distinct as count_distinct
from assocjax.gradients.exact import exact_gradient as exact_gradient
from assocjax.gradients.exact import exact_loss_and_gradient as exact_loss_and_gradient
from assocjax.gradients.leading import leading_gradient as leading_gradient
from assocjax.gradients.parallel import (
    data_parallel_loss_and_gradient as data_parallel_loss_and_gradient,
)
from assocjax.gradients.plan import ExactPlan as ExactPlan
from assocjax.gradients.plan import plan_exact_step as plan_exact_step
