import pytest

from cost_profiles.model_shape import MODELS, find_model
from s2l_jax.core.errors import InvalidArgument


@pytest.mark.parametrize(("name", "parameters"), [("llama3.1-8b", 8_030_261_248), ("llama3.1-70b", 70_553_706_496)])
def test_parameters_are_those_of_the_published_checkpoints(name, parameters):
    assert MODELS[name].parameters == parameters
    assert MODELS[name].weight_bytes() == 2 * parameters


def test_int8_halves_the_layers_and_nothing_else():
    model = MODELS["llama3.1-8b"]
    embeddings_and_norms = model.parameters - model.layer_matrix_parameters
    assert embeddings_and_norms == 2 * 128256 * 4096 + 65 * 4096
    assert model.weight_bytes(int8=True) == model.layer_matrix_parameters + 2 * embeddings_and_norms


def test_kv_of_a_token():
    assert MODELS["llama3.1-8b"].kv_token_bytes == 128 * 1024
    assert MODELS["llama3.1-70b"].kv_token_bytes == 320 * 1024


def test_an_unknown_model_is_an_error_that_says_what_there_is():
    with pytest.raises(InvalidArgument, match=r"'llama4'.*llama3\.1-8b, llama3\.1-70b"):
        find_model("llama4")
