// ServiceNow: the same business rule as servicenow.js, by the console's HTTP API: no RabbitMQ user, and an answer at once if
// the order is wrong. Three system properties say how:
//   unlink.console         https://unlinks.example.com
//   unlink.console_token   (type password2) the token of a user of the console with the role `submit`
//   unlink.mid_server      name of the MID server, if the console is reached through one
(function executeRule(current, previous) {
  var number = current.getValue("number");
  var job = current.getValue("u_backup_copy_job_id");
  var link = current.getValue("u_repository_link_id");
  // Whether the loss of the job's linked backups was agreed to: another request, and so another key.
  var consent = current.getValue("u_linked_backups_may_go") == "1";
  var command = {
    command: "unlink.v1",
    // The same request of the same change is the same unlink, however often the rule runs; a corrected one is another.
    idempotency_key: "servicenow:" + number + "/" + job + "/" + link + (consent ? "/consent" : ""),
    job: { id: job },
    repository: { link_id: link },
    allow_linked_backups_removal: consent,
    requested_by: gs.getUserName(),
    ticket: { system: "servicenow", id: number },
  };

  var request = new sn_ws.RESTMessageV2();
  request.setHttpMethod("POST");
  // What had failed is run again, if the rule runs again.
  request.setEndpoint(gs.getProperty("unlink.console") + "/api/v1/unlinks?retry=true");
  request.setMIDServer(gs.getProperty("unlink.mid_server"));
  request.setRequestHeader("Authorization", "Bearer " + gs.getProperty("unlink.console_token"));
  request.setRequestHeader("Content-Type", "application/json");
  request.setHttpTimeout(30000);
  request.setRequestBody(JSON.stringify(command));

  var response = request.execute();
  var status = response.getStatusCode();
  if (status != 200 && status != 202) {
    // A problem document (RFC 9457): its `detail` is one sentence for a person.
    gs.error("unlink " + number + " was not ordered: " + status + " " + response.getBody());
  }
})(current, previous);
