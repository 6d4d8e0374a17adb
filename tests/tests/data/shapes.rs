//! Every shape that has a file, and every kind of item that the webhooks must hold.

/// What WhatsApp posts.
#[rustfmt::skip]
pub(crate) const WEBHOOKS: &[&str] = &[
    // Statuses.
    "status_sent", "status_sent_with_conversation_of_older_versions", "status_delivered", "status_read",
    "status_failed", "status_failed_without_callback", "status_failed_with_two_errors",
    "status_failed_with_code_as_text", "status_failed_without_code", "status_failed_without_errors", "status_played",
    "status_deleted", "status_warning", "status_of_unknown_name", "status_of_a_group",
    "status_with_identity_key_hash", "status_of_foreign_callback", "status_with_timestamp_as_number",
    "status_with_id_as_number", "status_with_recipient_id_empty", "status_with_recipient_id_absent",
    "status_with_bsuid_and_phone", "status_with_bsuid_only", "status_with_bsuid_in_contacts_only",
    "status_with_unknown_fields",
    // Their pricing.
    "pricing_regular_without_billable", "pricing_free_customer_service", "pricing_free_entry_point",
    "pricing_marketing_lite", "pricing_authentication_international", "pricing_service",
    // What contacts write and tap.
    "inbound_text", "inbound_text_in_reply", "inbound_text_forwarded", "inbound_text_from_an_ad",
    "inbound_text_emoji", "inbound_text_hindi", "inbound_text_ascii_escaped", "inbound_text_nul",
    "inbound_text_half_an_emoji", "inbound_text_bytes_that_are_no_utf8", "inbound_text_empty", "inbound_button",
    "inbound_interactive_button_reply", "inbound_interactive_list_reply", "inbound_interactive_nfm_reply",
    "inbound_interactive_nfm_reply_non_object", "inbound_interactive_nfm_reply_as_object", "inbound_image",
    "inbound_video", "inbound_document", "inbound_audio", "inbound_sticker", "inbound_reaction",
    "inbound_reaction_removed", "inbound_order", "inbound_contacts", "inbound_location", "inbound_unsupported",
    "inbound_edited", "inbound_revoked", "inbound_without_type", "inbound_without_time",
    "inbound_system_number_changed", "inbound_system_user_id_changed", "inbound_bsuid_and_phone",
    "inbound_bsuid_only", "inbound_from_empty", "inbound_known_by_contacts_only",
    // What comes beside messages.
    "errors_of_the_account", "user_actions_link_click", "standby", "message_echoes",
    // Contacts' own switches.
    "user_preferences_stop", "user_preferences_resume", "user_preferences_bsuid_only", "user_preferences_signup",
    "user_preferences_of_unknown_category",
    // Templates.
    "template_status_approved", "template_status_approved_in_lower_case", "template_status_rejected",
    "template_status_paused_first", "template_status_paused_second", "template_status_paused_for_rate",
    "template_status_unpaused", "template_status_disabled", "template_status_flagged", "template_status_in_appeal",
    "template_status_pending", "template_status_pending_deletion", "template_status_deleted",
    "template_status_archived", "template_status_unarchived", "template_status_reinstated",
    "template_status_limit_exceeded", "template_status_locked", "template_status_of_unknown_event",
    "template_status_id_as_text", "template_quality", "template_quality_unknown_before",
    "template_quality_under_the_wrong_field", "template_category_announced", "template_category_changed",
    "template_components", "template_correct_category_detected", "template_news_without_name",
    // Accounts and numbers.
    "number_quality_onboarding", "number_quality_throughput_upgrade", "number_name_update", "business_capability",
    "business_capability_as_integer", "account_restriction", "account_violation", "account_disabled",
    "account_deleted", "account_pricing_tier", "account_marketing_terms_signed", "account_partner_added",
    "account_offboarded", "account_reconnected", "account_alert", "field_of_tomorrow",
    // Whole bodies.
    "several_entries_accounts_and_fields", "the_same_status_twice", "broken_items_among_good_ones",
    "status_under_no_field", "contacts_alone", "no_changes", "no_entries", "body_cut_off", "body_empty",
    "body_is_html", "body_of_another_object", "body_is_a_list",
];

/// What WhatsApp and what stands before it answer to a send.
#[rustfmt::skip]
pub(crate) const ANSWERS: &[&str] = &[
    // Accepted.
    "accepted", "accepted_without_message_status", "accepted_held", "accepted_paused",
    "accepted_with_unknown_message_status", "accepted_with_201", "accepted_with_another_wa_id", "accepted_for_bsuid",
    "accepted_without_contacts", "accepted_by_marketing_messages",
    // Through the endpoint for marketing messages.
    "marketing_template_still_syncing", "marketing_not_eligible", "marketing_template_unavailable",
    "marketing_through_cloud_api_disabled",
    // Success that says nothing.
    "success_without_messages", "success_with_empty_id", "success_with_error_envelope", "success_with_html",
    "success_without_body",
    // Refused by the number, the account or the pair, and to be called again.
    "replay_app_rate", "replay_app_rate_with_400", "replay_account_rate", "replay_sender_rate",
    "replay_sender_rate_with_400", "replay_sender_rate_with_503", "replay_with_a_date_to_retry_after",
    "replay_pair_rate", "replay_generic_call_rate", "maintenance", "maintenance_with_503",
    // Perhaps accepted.
    "ambiguous_unknown_api", "ambiguous_outage", "ambiguous_something_went_wrong", "ambiguous_service_unavailable",
    "ambiguous_known_code_with_500", "ambiguous_permission_with_500",
    // Failed.
    "fail_text_too_long", "fail_recipient_is_sender", "fail_country_restricted", "fail_and_flag_undeliverable",
    "suppress_blocked_contact", "cool_experiment",
    // Stopped until somebody acts.
    "pause_account_token_expired", "pause_account_token_unauthenticated", "pause_account_permission",
    "pause_account_permission_of_the_two_hundreds", "pause_account_policy", "pause_account_payment",
    "pause_sender_spam", "pause_sender_unknown_number", "pause_sender_not_registered", "pause_template_missing",
    "pause_template_paused", "pause_template_parameter_count",
    // Set up wrong.
    "configuration_invalid_parameter", "configuration_missing_parameter", "configuration_template_parameters",
    "configuration_template_authoring", "unknown_code", "unknown_code_with_500",
    // The envelope.
    "envelope_with_every_field", "envelope_with_code_alone", "envelope_with_code_as_text",
    "envelope_with_code_of_a_reseller", "envelope_without_code", "envelope_with_code_beyond_all_bounds",
    "envelope_with_error_as_text", "envelope_in_hindi_and_emoji",
    // No envelope at all.
    "html_502", "html_503", "html_403", "html_429", "empty_500", "empty_404", "empty_408", "timeout_504",
    "redirect_302", "json_cut_off",
];

/// Templates with their values.
#[rustfmt::skip]
pub(crate) const REQUESTS: &[&str] = &[
    // Bodies and headers.
    "no_variables", "body_positional", "body_positional_out_of_order", "body_named", "body_hindi_and_emoji",
    "body_value_cleaned", "header_text", "header_text_named", "header_image_link", "header_image_id", "header_video",
    "header_document", "header_document_with_filename", "header_location",
    // Buttons.
    "button_quick_reply", "button_quick_reply_without_payload", "button_url", "button_url_without_variable",
    "button_copy_code", "button_one_time_password", "button_flow", "button_flow_with_data", "button_catalog",
    "button_catalog_without_product", "button_multi_product", "buttons_without_parameters",
    // Offers and carousels.
    "limited_time_offer", "limited_time_offer_without_end", "carousel", "carousel_of_videos",
    // Through the endpoint for marketing messages.
    "marketing_messages_with_fallback", "marketing_messages_strict",
    // What cannot be sent.
    "refused_variable_missing", "refused_variable_blank", "refused_picture_without_https", "refused_code_too_long",
    "refused_offer_in_the_past", "refused_text_too_long",
    // What WhatsApp takes and the engine never writes.
    "never_written_currency", "never_written_date_time", "never_written_bsuid_recipient", "never_written_context",
    "never_written_language_policy", "never_written_upper_case_and_number_index",
];

/// Pages of an account's templates.
#[rustfmt::skip]
pub(crate) const CATALOG: &[&str] = &[
    // One page each.
    "page_with_next", "last_page", "no_templates", "every_status_and_category", "written_otherwise",
    "unreadable_among_readable", "page_is_html", "page_is_a_list", "page_is_a_list_of_lists", "page_without_data",
];

/// Files of contacts.
#[rustfmt::skip]
pub(crate) const CONTACTS: &[&str] = &[
    // One file each.
    "commas", "semicolons_with_mark_and_crlf", "utf16_tabs", "windows_1252", "quotes_and_escapes", "rejected_rows",
    "no_phone_column", "unclosed_quote", "empty",
];

/// Every kind of item that the parser tells apart.
#[rustfmt::skip]
pub(crate) const ITEM_KINDS: &[&str] = &[
    // Statuses.
    "status sent", "status delivered", "status read", "status failed", "status other/played", "status other/deleted",
    "status other/warning",
    // Inbound.
    "inbound text", "inbound button", "inbound interactive", "inbound image", "inbound video", "inbound document",
    "inbound audio", "inbound sticker", "inbound reaction", "inbound system", "inbound order", "inbound contacts",
    "inbound location", "inbound unsupported", "inbound unknown",
    // Preferences.
    "preference stop", "preference resume",
    // Templates.
    "template status APPROVED", "template status PAUSED", "template status DISABLED", "template status REJECTED",
    "template status PENDING", "template status IN_APPEAL", "template status ARCHIVED", "template status DELETED",
    "template status PENDING_DELETION", "template quality", "template category", "template category announced",
    "template changed",
    // Kept and counted only.
    "other messages/errors", "other messages/user_actions", "other standby", "other account_update",
    "other account_alerts", "other phone_number_quality_update", "other business_capability_update",
    "other user_preferences/marketing_messages/signup",
    // Parked.
    "unreadable: the entry has no list of changes", "unreadable: the change has no value",
    "unreadable: the items are not a list", "unreadable: the change names no phone number id",
    "unreadable: the item has no usable message id", "unreadable: the status has no name",
    "unreadable: the status has no readable time",
    "unreadable: the news is about a template without account, name or language",
];
