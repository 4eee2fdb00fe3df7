"use strict";

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  // Off by default it would ask a service on the internet to judge the document.
  validatorUrl: null,
  tryItOutEnabled: true,
});
