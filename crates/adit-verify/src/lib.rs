//! Staged verification of a connection: stages, budgets, evidence, failure classes, the report.
