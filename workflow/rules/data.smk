"""Data: the real sets where an experiment reads any, then the synthetic or prepared data of a block of seeds."""


rule fetch:
    output:
        manifest="results/datasets/{dataset}.json",
    log:
        "results/datasets/logs/{dataset}.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=240,
    params:
        python=python,
        folder=subpath(output.manifest, strip_suffix=".json"),
        place=data_place,
    shell:
        "{params.python} -m workflow.lib fetch"
        " --dataset {wildcards.dataset}"
        " --folder {params.folder:q}"
        " {params.place:q}"
        " --manifest {output.manifest:q}"
        " 2>&1 | tee {log:q}"


rule generate:
    input:
        datasets=experiment_datasets,
    output:
        data="results/{paper}/data/{experiment}/{seeds}.npz",
    log:
        "results/{paper}/logs/generate/{experiment}/{seeds}.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        python=python,
        plan=handed(jobs.for_data),
        code=data_code,
    shell:
        "{params.python} -m workflow.lib generate"
        " --paper {wildcards.paper}"
        " --experiment {wildcards.experiment}"
        " --plan {params.plan:q}"
        " --datasets {input.datasets:q}"
        " --seeds {wildcards.seeds}"
        " --data {output.data:q}"
        " 2>&1 | tee {log:q}"
