"""The answers that a point of a legal text may name.

The texts themselves are in texts/*.yaml; the answers are functions of the two modules below, on the
model and on its data.
"""

from collections.abc import Callable, Mapping

from registry.formats.answers_on_data import (
    data_in_full,
    data_in_short,
    data_points,
    data_scope,
    data_sets,
    large_public_sets,
    modality_and_size,
    source_classes,
    summary_version,
    withdrawn_sources,
)
from registry.formats.answers_on_model import (
    architecture,
    architecture_and_size,
    authenticity,
    capabilities_and_limits,
    computation,
    computation_for_energy,
    cybersecurity,
    dependencies,
    development_steps,
    document_date,
    document_version,
    evaluation,
    general_description,
    how_flops_are_counted,
    how_inference_is_counted,
    how_it_loads,
    identity,
    inference_flops,
    licence,
    lifecycle_changes,
    modalities,
    names_and_dependencies,
    release,
    rules_at_gates,
    size_of_inputs,
    software,
    total_size,
    training_flops,
    training_process,
    training_time,
    validation,
)
from registry.formats.dossier import Dossier
from registry.formats.legal_points import Answer

ANSWERS: Mapping[str, Callable[[Dossier], Answer]] = {
    answer.__name__: answer
    for answer in (
        general_description,
        development_steps,
        architecture,
        data_sets,
        validation,
        cybersecurity,
        capabilities_and_limits,
        rules_at_gates,
        lifecycle_changes,
        release,
        architecture_and_size,
        total_size,
        modalities,
        size_of_inputs,
        licence,
        software,
        how_it_loads,
        training_process,
        data_in_full,
        data_in_short,
        data_points,
        data_scope,
        evaluation,
        computation,
        computation_for_energy,
        training_time,
        training_flops,
        how_flops_are_counted,
        inference_flops,
        how_inference_is_counted,
        identity,
        authenticity,
        dependencies,
        document_date,
        document_version,
        names_and_dependencies,
        modality_and_size,
        summary_version,
        source_classes,
        large_public_sets,
        withdrawn_sources,
    )
}
