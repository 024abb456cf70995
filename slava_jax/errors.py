"""Errors whose message is all the user needs: command lines print it without a traceback."""

from slava_jax.checkpoint import CheckpointError
from slava_jax.config import ConfigError
from slava_jax.convert.rules import ConvertError
from slava_jax.data.datasets.base import DataError
from slava_jax.data.images import ImageError
from slava_jax.data.instructions import InstructionError
from slava_jax.data.pipeline import PipelineError
from slava_jax.data.prompts import PromptError
from slava_jax.data.tokenizer import TokenizerError
from slava_jax.eval.wordnet import WordNetError
from slava_jax.hosts import HostsError
from slava_jax.teacher.settings import TeacherError
from slava_jax.train.fit import TrainingError
from slava_jax.train.logging import HistoryError
from slava_jax.train.workdir import WorkdirError

USER_ERRORS = (
    CheckpointError,
    ConfigError,
    ConvertError,
    DataError,
    HistoryError,
    HostsError,
    ImageError,
    InstructionError,
    PipelineError,
    PromptError,
    TeacherError,
    TokenizerError,
    TrainingError,
    WordNetError,
    WorkdirError,
)
