//! Whether a campaign could send at all. Asked when it is activated, because a segment may well be uploaded after the
//! campaign was created.

use domain::campaign::CampaignDefinition;
use infrastructure::{contacts, templates};

use crate::http::auth::Caller;
use crate::http::fields::Faults;
use crate::http::problem::Answer;
use crate::http::senders;
use crate::http::state::ApiState;

/// Segments that are named to somebody whose segment nobody carries.
const SEGMENTS_NAMED_MAX: usize = 10;

/// Refuses a campaign that could not send, with everything that is in the way.
pub(super) async fn check(state: &ApiState, caller: &Caller, definition: &CampaignDefinition) -> Answer<()> {
    let mut faults = Faults::default();
    check_template(state, caller, definition, &mut faults).await?;
    if !contacts::segment_exists(&state.pool, caller.tenant.id, &definition.segment).await? {
        faults.push("target_segment", nobody_carries(state, caller, &definition.segment).await?);
    }
    faults.check()?;
    senders::serving(state, caller, definition.sender_id).await?;
    Ok(())
}

async fn check_template(
    state: &ApiState,
    caller: &Caller,
    definition: &CampaignDefinition,
    faults: &mut Faults,
) -> Answer<()> {
    let found = templates::find_template(&state.pool, caller.tenant.id, definition.template_id).await?;
    let Some(template) = found else {
        faults.push("template_id", super::super::templates::unknown(state, caller).await?);
        return Ok(());
    };
    if template.status != "APPROVED" {
        let reason = format!("the template is {} at WhatsApp; only an approved one can be sent", template.status);
        faults.push("template_id", reason);
    }
    let content = match domain::template::Template::parse(&template.components) {
        Ok(content) => content,
        Err(error) => {
            faults
                .push("template_id", format!("the template {} cannot be sent by this release: {error}", template.name));
            return Ok(());
        }
    };
    for slot in content.slots().iter().filter(|slot| slot.required && !definition.parameters.contains_key(&slot.name)) {
        let reason = format!(
            "the template {} has this variable, which takes {}, and nothing says what to put there; map it to an attribute \
             or a value",
            template.name, slot.kind
        );
        faults.push(format!("parameters.{}", slot.name), reason);
    }
    Ok(())
}

async fn nobody_carries(state: &ApiState, caller: &Caller, segment: &str) -> Answer<String> {
    let known = contacts::list_segments(&state.pool, caller.tenant.id).await?;
    let named: Vec<&str> = known.iter().take(SEGMENTS_NAMED_MAX).map(|segment| segment.name.as_str()).collect();
    Ok(if named.is_empty() {
        format!("no contact carries the segment {segment}; there is no segment yet, upload contacts with one")
    } else {
        format!("no contact carries the segment {segment}; there are {}", named.join(", "))
    })
}
