"""The workflow: rules, report, schemas, profiles, and the library they call (`workflow.lib`)."""
