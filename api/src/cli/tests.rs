use clap::CommandFactory;
use clap::error::ErrorKind;

use super::*;

fn parse(arguments: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("ektola").chain(arguments.split_whitespace()))
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_subcommand_parses() {
    let calls = [
        "dev",
        "dev --listen 127.0.0.1:0 --queue rabbitmq --clock 2026-01-01T10:00:00+05:30",
        "serve --database-url postgres:///x --roles api,webhooks",
        "demo --queue rabbitmq",
        "migrate",
        "tenant create Mehta --zone Asia/Kolkata",
        "tenant list",
        "token create --tenant Mehta",
        "token revoke 00000000000000ff",
        "sender add",
        "sender add --phone-number-id 1 --waba-id 2 --access-token-file a --app-secret-file b --verify-token-file c",
        "sender set 123 --rate 250",
        "sender set 123 --rate 250 --app-secret-file b",
        "sender set 123 --api-version v24.0 --marketing-api on --product-policy strict --activity-sharing default",
        "sender list",
        "templates sync --tenant Mehta --allow-provider-base-url",
        "templates list",
        "contacts import contacts.csv --tenant Mehta",
        "contacts opt-out --phone 9825000000 --tenant Mehta",
        "contacts opt-in --phone 9825000000",
        "contacts stop-marketing --phone 9825000000",
        "contacts resume-marketing --phone 9825000000",
        "contacts erase --phone 9825000000",
        "contacts readmit --phone 9825000000",
        "projections list",
        "projections status",
        "projections rebuild runs",
        "projections rebuild --all",
        "projections verify runs",
        "projections switch runs",
        "projections switch-back runs",
        "projections cancel runs",
        "projections parked",
        "projections retry runs 0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b",
        "projections discard runs 0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b",
        "audit campaign 0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b --as-of 2026-01-01T10:00:00Z",
        "audit run 0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b --as-of 17",
        "audit message 0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b --diff 17..23",
        "audit contact 9825000000",
        "audit verify --head head.json",
        "audit head",
        "audit proof 0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b",
        "audit check proof.json",
        "events tail --follow",
        "events show 17",
        "events export",
        "explain --contact 9825000000 --campaign 0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b",
        "totals",
        "billing",
        "dead-letters list",
        "dead-letters list --limit 7 --source dispatch",
        "dead-letters retry 1 2",
        "dead-letters retry --all --source webhook",
        "dead-letters discard --all",
        "unknown list",
        "unknown list --tenant Mehta --run 0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b --limit 7",
        "unknown settle 0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b --as not-sent",
        "notices list",
        "notices list --tenant Mehta --all",
        "notices done 1 2",
        "status",
        "status --tenant Mehta",
        "doctor",
        "config",
        "openapi",
        "sandbox --listen 127.0.0.1:0 --webhook-url http://127.0.0.1:1/ --app-secret s --ledger l.jsonl --clock 2026-01-01T10:00:00Z",
    ];
    for call in calls {
        assert!(parse(call).is_ok(), "{call}: {}", parse(call).unwrap_err());
    }
    // Each subcommand is in the list above.
    for subcommand in Cli::command().get_subcommands() {
        let name = subcommand.get_name();
        assert!(calls.iter().any(|call| call.split(' ').next() == Some(name)), "{name}");
        for inner in subcommand.get_subcommands() {
            let start = format!("{name} {}", inner.get_name());
            assert!(calls.iter().any(|call| call.starts_with(&start)), "{start}");
        }
    }
}

#[test]
fn wrong_calls_are_wrong_usage() {
    for call in [
        "frobnicate",
        "tenant",
        "tenant create Mehta",
        "token create",
        "sender set 123",
        "sender set 123 --rate 0",
        "sender set 123 --marketing-api perhaps",
        "sender set 123 --product-policy lax",
        "contacts import",
        "contacts opt-out",
        "contacts opt-out --phone 12",
        "projections rebuild",
        "dead-letters list --limit 0",
        "dead-letters list --source nowhere",
        "dead-letters retry",
        "dead-letters retry 1 --all",
        "dead-letters discard 1 --source webhook",
        "sandbox --ledger l",
        "status --nonsense",
    ] {
        assert_eq!(parse(call).unwrap_err().exit_code(), 2, "{call}");
    }
    assert_eq!(parse("--help").unwrap_err().exit_code(), 0);
    assert_eq!(parse("--version").unwrap_err().kind(), ErrorKind::DisplayVersion);
}

#[test]
fn the_folder_and_the_form_of_the_answer_may_stand_anywhere() {
    for call in ["--data here --json tenant list", "tenant --json list --data here", "tenant list --json --data here"] {
        let cli = parse(call).unwrap();
        assert_eq!(cli.data, PathBuf::from("here"), "{call}");
        assert!(cli.json, "{call}");
    }
}

#[test]
fn no_secret_is_in_the_debug_text_of_a_call() {
    for call in [
        "sender add --access-token hush-hush",
        "sender add --app-secret hush-hush",
        "sender add --verify-token hush-hush",
        "sender set 1 --app-secret hush-hush",
        "sandbox --webhook-url http://127.0.0.1:1/ --ledger l --app-secret hush-hush",
    ] {
        assert!(!format!("{:?}", parse(call).unwrap()).contains("hush-hush"), "{call}");
    }
}

#[test]
fn every_argument_and_subcommand_is_explained() {
    fn check(command: &clap::Command) {
        assert!(command.get_about().is_some(), "{} has no help", command.get_name());
        for argument in
            command.get_arguments().filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()))
        {
            assert!(argument.get_help().is_some(), "{} {} has no help", command.get_name(), argument.get_id());
        }
        command.get_subcommands().for_each(check);
    }
    check(&Cli::command());
}

#[test]
fn only_what_runs_on_logs_by_itself() {
    assert_eq!(parse("dev").unwrap().command.kind(), Kind::Server);
    assert_eq!(parse("status").unwrap().command.kind(), Kind::Command);
    assert!(parse("doctor").unwrap().command.tolerates_bad_config());
    assert!(!parse("status").unwrap().command.tolerates_bad_config());
}
