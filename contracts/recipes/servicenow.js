// ServiceNow: a business rule on the change request, "after update", when its state becomes Implement.
// RabbitMQ's HTTP API is reached through a MID server. Three system properties say how:
//   unlink.rabbitmq_api       https://rabbit.example.com:15671
//   unlink.rabbitmq_profile   sys_id of the basic authentication profile with user and password
//   unlink.mid_server         name of the MID server
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
  request.setEndpoint(gs.getProperty("unlink.rabbitmq_api") + "/api/exchanges/%2F/unlink.commands/publish");
  request.setAuthenticationProfile("basic", gs.getProperty("unlink.rabbitmq_profile"));
  request.setMIDServer(gs.getProperty("unlink.mid_server"));
  request.setRequestHeader("Content-Type", "application/json");
  request.setHttpTimeout(30000);
  request.setRequestBody(
    JSON.stringify({
      routing_key: "default",
      properties: { delivery_mode: 2, content_type: "application/json" },
      payload_encoding: "string",
      payload: JSON.stringify(command),
    })
  );

  var response = request.execute();
  if (response.getStatusCode() != 200 || JSON.parse(response.getBody()).routed !== true) {
    gs.error("unlink " + number + " was not published: " + response.getStatusCode() + " " + response.getBody());
  }
})(current, previous);
