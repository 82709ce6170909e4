from .nulls import Null as Null
from .nulls import frequency_bins as frequency_bins
from .nulls import permutation_null as permutation_null
from .similarity import CENTERINGS as CENTERINGS
from .similarity import FactoredMatrix as FactoredMatrix
from .similarity import covariance_similarity as covariance_similarity
