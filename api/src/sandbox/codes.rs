//! WhatsApp's error codes: what each says, and the HTTP status that it comes with when it answers a call. The table
//! stands on its own and knows nothing of how the engine reacts, for it is there to put that to the test.

struct Row {
    code: u32,
    http_status: u16,
    title: &'static str,
}

const fn row(code: u32, http_status: u16, title: &'static str) -> Row {
    Row { code, http_status, title }
}

const ROWS: &[Row] = &[
    row(0, 401, "AuthException"),
    row(1, 500, "API Unknown"),
    row(2, 503, "API Service"),
    row(3, 500, "API Method"),
    row(4, 429, "API Too Many Calls"),
    row(10, 403, "Permission Denied"),
    row(33, 400, "Parameter value is not valid"),
    row(100, 400, "Invalid parameter"),
    row(190, 401, "Access token has expired"),
    row(200, 403, "API Permission"),
    row(368, 403, "Temporarily blocked for policies violations"),
    row(613, 429, "Calls to this api have exceeded the rate limit"),
    row(80_007, 429, "Rate limit issues"),
    row(80_008, 429, "Too many calls to this WhatsApp Business account"),
    row(130_403, 403, "User has blocked this business"),
    row(130_429, 429, "Rate limit hit"),
    row(130_472, 400, "User's number is part of an experiment"),
    row(130_497, 403, "Business account is restricted from messaging users in this country"),
    row(131_000, 500, "Something went wrong"),
    row(131_005, 403, "Access denied"),
    row(131_008, 400, "Required parameter is missing"),
    row(131_009, 400, "Parameter value is not valid"),
    row(131_014, 400, "Request for url or phone number is not valid"),
    row(131_016, 503, "Service unavailable"),
    row(131_021, 400, "Recipient cannot be sender"),
    row(131_026, 400, "Message undeliverable"),
    row(131_030, 400, "Recipient phone number not in allowed list"),
    row(131_031, 403, "Business Account locked"),
    row(131_037, 400, "WhatsApp provided number needs display name approval before message can be sent"),
    row(131_042, 400, "Business eligibility payment issue"),
    row(131_043, 400, "Message expired"),
    row(131_045, 500, "Incorrect certificate"),
    row(131_047, 400, "Re-engagement message"),
    row(131_048, 429, "Spam rate limit hit"),
    row(131_049, 400, "This message was not delivered to maintain healthy ecosystem engagement"),
    row(131_050, 400, "User has stopped receiving marketing messages from this business"),
    row(131_051, 400, "Unsupported message type"),
    row(131_052, 400, "Media download error"),
    row(131_053, 400, "Media upload error"),
    row(131_055, 400, "Method not allowed"),
    row(131_056, 429, "(Business Account, Consumer Account) pair rate limit hit"),
    row(131_057, 400, "Account in maintenance mode"),
    row(131_062, 400, "Business-scoped user id is not valid for this message"),
    row(131_063, 400, "Marketing messages through the Cloud API are disabled for this account"),
    row(131_064, 400, "Template classification violations limit reached"),
    row(132_000, 400, "Number of parameters does not match the expected number of params"),
    row(132_001, 404, "Template name does not exist in the translation"),
    row(132_005, 400, "Translated text too long"),
    row(132_007, 400, "Format character policy violated"),
    row(132_012, 400, "Parameter format does not match format in the created template"),
    row(132_015, 400, "Template is paused"),
    row(132_016, 400, "Template is disabled"),
    row(132_018, 400, "The template's parameters have an issue"),
    row(132_068, 400, "Flow is blocked"),
    row(132_069, 429, "Flow is throttled"),
    row(133_000, 500, "Incomplete deregistration"),
    row(133_004, 503, "Server is temporarily unavailable"),
    row(133_005, 400, "Two step verification PIN mismatch"),
    row(133_006, 400, "Phone number re-verification needed"),
    row(133_008, 400, "Too many PIN guesses"),
    row(133_009, 400, "PIN guessed too fast"),
    row(133_010, 400, "Phone number not registered"),
    row(133_015, 400, "Please wait a few minutes before attempting to register this phone number"),
    row(133_016, 429, "Account register or deregister rate limit exceeded"),
    row(134_011, 400, "Business has not accepted WhatsApp's payments terms"),
    row(134_100, 400, "Only marketing messages are supported"),
    row(134_101, 400, "Template is not yet synchronised"),
    row(134_102, 500, "Template is unavailable for use"),
    row(135_000, 400, "Generic user error"),
    row(137_000, 400, "Identity key hash does not match"),
];

/// What the code says. Codes that nobody has heard of have a text too: new ones come without notice.
pub(super) fn title(code: u32) -> &'static str {
    find(code).map_or("Something new", |row| row.title)
}

/// The HTTP status of an answer with this code.
pub(super) fn http_status(code: u32) -> u16 {
    find(code).map_or(400, |row| row.http_status)
}

fn find(code: u32) -> Option<&'static Row> {
    ROWS.binary_search_by_key(&code, |row| row.code).ok().map(|place| &ROWS[place])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_and_an_unknown_one_has_a_text_too() {
        assert!(ROWS.is_sorted_by(|one, other| one.code < other.code));
        assert!(ROWS.iter().all(|row| title(row.code) == row.title && http_status(row.code) == row.http_status));
        assert_eq!((title(999_999), http_status(999_999)), ("Something new", 400));
    }
}
